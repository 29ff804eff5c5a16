"""From a config to the parts of a run: the only place where settings become constructors' arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from virft.config.schema import AugmentConfig, Config, GRPOConfig, SFTConfig, shown, values
from virft.data.views import ViewRange, viewer
from virft.errors import ConfigError, DataError
from virft.generation.generator import GenerationParams, Generator
from virft.generation.hf_generator import HFGenerator, stop_token_ids
from virft.generation.vllm_generator import engine_is_served, start_vllm
from virft.geometry.boxes import BoxSpace
from virft.inference.prompting import make_renderer, template_text
from virft.models.load import LoadedModel, load_model
from virft.models.policy import Policy, make_policy
from virft.models.renderer import RenderedPrompt
from virft.models.segmenter import SamSegmenter, load_segmenter
from virft.models.sharding import shard
from virft.models.vision import FeatureCache
from virft.recipes.rollout_images import drawn_rollout
from virft.rewards.extra import load_function
from virft.rewards.options import Preset
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.text.prompts import strip_opened_prefix
from virft.training.distributed import device, is_main_process, ranks
from virft.training.freed_memory import keep_freed_memory
from virft.training.grpo.trainer import GRPOSettings, GRPOTrainer
from virft.training.loop import LookAt, LoopSettings
from virft.training.monitors import GuardSettings
from virft.training.optim import FastRows, learning_rate, make_optimizer
from virft.training.sft.trainer import SFTTrainer
from virft.training.trackers import Trackers
from virft.training.trainable import prepare_for_training, weights_dtype
from virft.training.zero import AnyOptimizer, ZeroPolicy, require_deepspeed, start_zero
from virft.types import Sample

_GAP_ALARM = {"float32": 1e-3, "bfloat16": 0.05}
"""Nats, by ``model.dtype``: a mean gap to another engine above this has a cause beside rounding."""


def strategy(config: Config) -> str:
    """What the processes share out; alone there is nothing to share, but DeepSpeed may move the optimizer away."""
    alone = ranks().count == 1 and not config.parallel.offload_optimizer
    return "ddp" if alone else config.parallel.strategy


def load_for_training(config: Config) -> LoadedModel:
    """The config's model with its trained and frozen parts set. Trained weights are float32 whatever the dtype.

    Adapters in a folder are merged first: they are where training starts, and under LoRA what the reference is.
    What is to be shared out stays on the CPU, as a GPU may have no room for all of it.
    """
    loaded = load_model(
        config.model.path,
        dtype=weights_dtype(config),
        pixels=(config.model.min_pixels, config.model.max_pixels),
        in_4bit=config.model.load_in_4bit,
    )
    if loaded.adapters is not None:
        loaded.merge_adapters()
    loaded.card |= _asked(config, loaded)
    prepare_for_training(config, loaded)
    if strategy(config) == "ddp":
        loaded.model.to(device())
    if config.model.compile:
        loaded.compile_layers()
    if device().type == "cpu":
        keep_freed_memory()
    return loaded


def _asked(config: Config, loaded: LoadedModel) -> dict[str, Any]:
    """How a run asks its model, as facts that go with what it saves. Sets of a mixture may agree on thinking."""
    ways = {config.prompt.thinking if one.thinking is None else one.thinking for one in config.mixture.values()}
    return {
        "prompt_template": template_text(loaded, config.prompt.template),
        "thinking": ways.pop() if len(ways) == 1 else config.prompt.thinking,
    }


def make_segmenter(path: str) -> SamSegmenter:
    """A promptable segmenter on this process's device."""
    return load_segmenter(path, device=device())


def make_reward_rule(config: Config, preset: Preset | None = None) -> RewardRule:
    """The config's reward, or with another preset, the user's own functions loaded."""
    try:
        return RewardRule(
            preset=preset or config.reward.preset,
            weights=config.reward.weights,
            iou_threshold=config.reward.iou_threshold,
            iou_threshold_end=config.reward.iou_threshold_end,
            overlong_tokens=config.reward.overlong_tokens,
            extra=tuple(load_function(spec) for spec in config.reward.extra),
        )
    except ConfigError as error:
        raise ConfigError(f"reward.{error}") from error


def make_grader(config: Config, box_space: BoxSpace) -> Grader:
    """How answers are read and paid, for each set of a mixture as its own settings say."""

    def grader(preset: Preset | None, thinking: bool | None) -> Grader:
        return Grader(
            rule=make_reward_rule(config, preset),
            thinking=config.prompt.thinking if thinking is None else thinking,
            box_space=box_space,
        )

    by_origin = {name: grader(part.preset, part.thinking) for name, part in config.mixture.items()}
    return replace(grader(None, None), by_origin=by_origin)


def require_strategy(config: Config) -> None:
    """``ConfigError`` where the processes shall share out by a package that is missing."""
    if strategy(config).startswith("zero"):
        require_deepspeed()


def require_engine(config: Config) -> None:
    """``ConfigError`` where ``sampling.engine`` is vLLM and is missing or cannot do what is asked on this device."""
    if config.sampling.engine == "vllm":
        engine_is_served(config.sampling.vllm_mode, on_cpu=device().type == "cpu")


def make_generator(config: Config, loaded: LoadedModel, policy: Policy) -> Generator:
    """What samples in training; an engine is started, and is the caller's to ``close``."""
    if config.sampling.engine == "builtin":
        return HFGenerator(policy, loaded.tokenizer)
    return start_vllm(
        loaded,
        policy.rules,
        dtype=config.model.dtype,
        mode=config.sampling.vllm_mode,
        memory_frac=config.sampling.vllm_gpu_memory,
        on_cpu=device().type == "cpu",
    )


def make_trainer(config: Config, loaded: LoadedModel, names: Iterable[str] = ()) -> GRPOTrainer:
    """The trainer of a config around a loaded model. ``names``: what the data asks for, see ``grpo.name_lr_scale``.

    With several processes, the weights are shared out here, if the config says so.
    """
    policy = make_policy(loaded, temperature=config.sampling.temperature)
    reference: Policy | None = None
    reference_mode: Callable[[], AbstractContextManager[None]] | None = None
    if config.grpo.has_reference and loaded.adapters is not None:
        reference_mode = loaded.adapters_disabled
    elif config.grpo.has_reference:
        reference = copy.deepcopy(policy).requires_grad_(False).eval()
    shared = _share_out(config, config.grpo, loaded, policy, names)
    if reference is not None and shared.sampler is not None:
        shard(reference, device(), ranks().count)
    elif reference is not None:
        reference.to(device())
    grader = make_grader(config, loaded.family.box_space)
    is_other_engine = config.sampling.engine != "builtin"
    return GRPOTrainer(
        policy=policy,
        generator=make_generator(config, loaded, shared.sampler or policy),
        render=make_renderer(
            loaded,
            template=config.prompt.template,
            thinking=config.prompt.thinking,
            thinking_by_origin={name: one.thinking for name, one in grader.by_origin.items()},
        ),
        grader=grader,
        optimizer=shared.optimizer,
        learning_rate_at=_learning_rate_of(config.grpo),
        settings=GRPOSettings(
            group_size=config.grpo.group_size,
            kl_coef=config.grpo.kl_coef,
            kl_coef_end=config.grpo.kl_coef_end,
            refill_rounds=config.grpo.refill_rounds,
            loss=config.grpo.loss,
            scale_by_std=config.grpo.scale_by_std,
            updates_per_batch=config.grpo.updates_per_batch,
            clip_range=config.grpo.clip_range,
            max_grad_norm=config.grpo.max_grad_norm,
            microbatch_tokens=config.grpo.microbatch_tokens,
            prompts_per_batch=config.sampling.prompts_per_batch,
            mask_truncated=config.grpo.mask_truncated,
            importance_cap=config.sampling.importance_cap if is_other_engine else None,
            gap_alarm=_GAP_ALARM[config.model.dtype] if is_other_engine else None,
        ),
        params=GenerationParams(
            max_completion_tokens=config.sampling.max_completion_tokens, temperature=config.sampling.temperature
        ),
        num_steps=config.grpo.steps,
        seed=config.seed,
        reference=reference,
        reference_mode=reference_mode,
        feature_cache=FeatureCache() if config.model.freeze_vision else None,
        ranks=ranks(),
        is_sharded=strategy(config) != "ddp",
        engine=shared.engine,
        sampler=shared.sampler,
        sampling_mode=loaded.whole if shared.sampler is not None else None,
        device=device(),
        autocast=_autocast(config),
    )


def make_sft_trainer(config: Config, loaded: LoadedModel, names: Iterable[str] = ()) -> SFTTrainer:
    """The supervised trainer of a config around a loaded model, asked as ``make_trainer``'s is. ``names``: as there."""
    policy = make_policy(loaded, temperature=1.0)
    shared = _share_out(config, config.sft, loaded, policy, names)
    thinking_by_origin = {name: part.thinking for name, part in config.mixture.items() if part.thinking is not None}
    end = end_token_id(loaded)

    def answer_ids(sample: Sample, rendered: RenderedPrompt) -> list[int]:
        thinking = thinking_by_origin.get(sample.origin, config.prompt.thinking)
        text = TASKS[sample.task].render_for(
            sample,
            space=loaded.family.box_space,
            resized=rendered.prompt.images[sample.target_image].resized,
            thinking_text=sample.rationale if thinking else None,
        )
        rest = strip_opened_prefix(text, rendered.prompt.opened)
        return [*loaded.tokenizer(rest, add_special_tokens=False).input_ids, end]

    return SFTTrainer(
        policy=policy,
        render=make_renderer(
            loaded,
            template=config.prompt.template,
            thinking=config.prompt.thinking,
            thinking_by_origin=thinking_by_origin,
        ),
        answer_ids=answer_ids,
        optimizer=shared.optimizer,
        learning_rate_at=_learning_rate_of(config.sft),
        max_grad_norm=config.sft.max_grad_norm,
        microbatch_tokens=config.sft.microbatch_tokens,
        feature_cache=FeatureCache() if config.model.freeze_vision else None,
        ranks=ranks(),
        is_sharded=strategy(config) != "ddp",
        engine=shared.engine,
        **_encoding(config, loaded, shared.sampler),
        device=device(),
        autocast=_autocast(config),
    )


def _encoding(config: Config, loaded: LoadedModel, whole: Policy | None) -> dict[str, Any]:
    """What encodes images of a frozen tower that is shared out; FSDP2 leaves it whole."""
    if whole is None or not config.model.freeze_vision or strategy(config) == "fsdp2":
        return {}
    return {"encoder": whole, "encoding_mode": loaded.whole}


class _Shared(NamedTuple):
    """What trains a policy among the processes of a run. ``sampler``: what has all weights where the policy has not.

    ``engine``: what the policy is called through where gradients are wanted, if that is DeepSpeed's.
    """

    optimizer: AnyOptimizer
    sampler: Policy | None = None
    engine: ZeroPolicy | None = None


def _share_out(
    config: Config, settings: GRPOConfig | SFTConfig, loaded: LoadedModel, policy: Policy, names: Iterable[str]
) -> _Shared:
    """Share out what the config says over the processes, and make the optimizer."""
    among, how = ranks(), strategy(config)
    among.require_equal(one for one in policy.parameters() if one.requires_grad)
    halved = torch.bfloat16 if config.model.dtype == "bfloat16" else None
    sampler = None
    if how in ("fsdp2", "zero3"):
        loaded.add_copy(among.device, linear_dtype=halved, keep_tower=how == "fsdp2")
        sampler = make_policy(loaded.copy(), temperature=policy.rules.temperature)
    if how == "fsdp2":
        assert loaded.copied is not None
        shard(policy, among.device, among.count, whole=loaded.copied.shared)
    optimizer = _make_optimizer(settings, loaded, policy, names)
    if how in ("ddp", "fsdp2"):
        return _Shared(optimizer, sampler)
    if not dist.is_initialized():
        backend = "nccl" if among.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    engine, shared = start_zero(
        policy,
        optimizer,
        stage=3 if how == "zero3" else 2,
        num_processes=among.count,
        max_grad_norm=settings.max_grad_norm,
        autocast_dtype=halved,
        offload=config.parallel.offload_optimizer,
    )
    return _Shared(shared, sampler, engine)


def require_rationales(config: Config, data: Iterable[Sample]) -> None:
    """``DataError`` where a sample is to be learnt with thinking and says nothing that could be thought."""
    for sample in data:
        own = config.mixture[sample.origin].thinking if sample.origin else None
        if (config.prompt.thinking if own is None else own) and sample.rationale is None:
            raise DataError(
                f"sample {sample.id} has no rationale, which supervised training with thinking needs; "
                "expected one in every sample (virft build rows), or prompt.thinking = false"
            )


def end_token_id(loaded: LoadedModel) -> int:
    """What ends an answer: the tokenizer's end token if sampling stops there, else the first at which it does."""
    stops = stop_token_ids(loaded.model)
    own = loaded.tokenizer.eos_token_id
    return own if own in stops else min(stops)


def _make_optimizer(
    settings: GRPOConfig | SFTConfig, loaded: LoadedModel, policy: Policy, names: Iterable[str]
) -> torch.optim.Optimizer:
    scales = {"vision": settings.vision_lr_scale, "projector": settings.projector_lr_scale}
    parts = loaded.vision_parts()
    return make_optimizer(
        policy.parameters(),
        weight_decay=settings.weight_decay,
        fast=_fast_names(settings.name_lr_scale, loaded, names),
        scale_of=lambda parameter: scales[parts[parameter]] if parameter in parts else 1.0,
        kind=settings.optimizer,
    )


def _learning_rate_of(settings: GRPOConfig | SFTConfig) -> Callable[[int], float]:
    return partial(
        learning_rate,
        peak=settings.learning_rate,
        num_steps=settings.steps,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
    )


def _fast_names(scale: float, loaded: LoadedModel, names: Iterable[str]) -> FastRows | None:
    """The tokens of the names, at the start of a text and behind a space."""
    if scale == 1:
        return None
    texts = [text for name in sorted(set(names)) for text in (name, f" {name}")]
    ids = {token for text in texts for token in loaded.tokenizer(text, add_special_tokens=False).input_ids}
    table = loaded.model.get_input_embeddings().weight
    return FastRows(table, torch.tensor(sorted(ids)), scale)


def loop_settings(config: Config, *, num_steps: int) -> LoopSettings:
    """The config's intervals, for a run of so many steps."""
    return LoopSettings(
        num_steps=num_steps,
        save_every=config.run.save_every,
        keep_checkpoints=config.run.keep_checkpoints,
        log_every=config.run.log_every,
        validate_every=config.data.validate_every,
        patience=config.run.patience,
        guards=GuardSettings(**asdict(config.guards)),
    )


def make_trackers(config: Config, folder: Path) -> Trackers:
    """The config's trackers for a run in ``folder``, not started; none in any but the main process."""
    return Trackers(
        config.run.trackers if config.run.trackers and is_main_process() else (),
        folder,
        config={setting.key: _plain(value) for setting, value in values(config)},
        draw=drawn_rollout,
        images_every=config.run.tracker_images_every,
    )


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else shown(value)


def make_look_at(config: Config) -> LookAt | None:
    """The config's augmentation; None if it has none."""
    augment = config.augment
    if augment == AugmentConfig():
        return None
    return viewer(ViewRange(zoom=augment.zoom, mirror=augment.mirror, tones=augment.tones), config.seed)


def _autocast(config: Config) -> Callable[[], AbstractContextManager[Any]] | None:
    if config.model.dtype == "float32":
        return None
    return partial(torch.autocast, device().type, torch.bfloat16)
