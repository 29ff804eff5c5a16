"""From a config to its trainer: policy, sharding, optimizer, generator and rewards put together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from virft.config.schema import (
    Config,
    DataConfig,
    GRPOConfig,
    ModelConfig,
    ParallelConfig,
    SamplingConfig,
    SFTConfig,
)
from virft.errors import ConfigError
from virft.generation.generator import GenerationParams, Generator
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.generation.sampling_weights import merges_adapters
from virft.generation.vllm_generator import VLLMGenerator
from virft.generation.vllm_start import check_placement, start_vllm
from virft.geometry.crops import region_around
from virft.inference.prompting import Prompting, make_renderer
from virft.models.attention.layout import PackedRow
from virft.models.load import LoadedModel
from virft.models.operations import row_segments, update_operations
from virft.models.policy import Policy, make_policy
from virft.models.renderer import RenderedPrompt
from virft.models.sharding import shard
from virft.models.stop_tokens import end_token_id
from virft.models.stored_dtypes import convert_weights, stored_dtypes
from virft.models.vision import FeatureCache
from virft.recipes.setup import load_for_training, make_grader, make_prompting, make_runtime
from virft.tasks import TASKS
from virft.text.answers import confidence_spans
from virft.text.prompts import strip_opened_prefix
from virft.text.zoom import render_zoom_call
from virft.training.grpo.demonstrations import WriteTarget, WrittenTarget
from virft.training.grpo.trainer import GRPOTrainer, SamplerCorrection
from virft.training.optim import ScaledRows, learning_rate, make_optimizer
from virft.training.policy_runner import PolicyRunner
from virft.training.prompt_loader import default_num_workers
from virft.training.runtime import Runtime
from virft.training.sft.batch import ZoomCall
from virft.training.sft.trainer import SFTTrainer
from virft.training.zero import AnyOptimizer, ZeroPolicy, require_deepspeed, start_zero
from virft.types import Sample

_MAX_SAMPLER_GAP = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Compute dtype -> nats per token. A larger mean gap to another engine's log-probs is more than rounding."""


def require_strategy(runtime: Runtime, *, shard_size: int | None = None) -> None:
    """Raise ``ConfigError`` if the package that the strategy needs is not installed, or for an unfit ``shard_size``."""
    if runtime.strategy.startswith("zero"):
        require_deepspeed()
    if runtime.strategy == "fsdp2" and shard_size is not None and runtime.ranks.count % shard_size:
        raise ConfigError(
            f"parallel.shard_size is {shard_size} with {runtime.ranks.count} processes; "
            f"expected a divisor of {runtime.ranks.count}"
        )


def require_engine(sampling: SamplingConfig, runtime: Runtime) -> None:
    """Raise ``ConfigError`` if vLLM is to sample and is not installed, or cannot run as configured on this machine."""
    if sampling.engine == "builtin":
        return
    on_cpu = runtime.device.type == "cpu"
    num_devices = 0 if on_cpu else torch.cuda.device_count()
    check_placement(sampling, runtime.ranks.training_process, on_cpu=on_cpu, num_devices=num_devices)


def open_grpo_trainer(config: Config, class_names: Iterable[str] = ()) -> GRPOTrainer:
    """The GRPO trainer of a config with everything that it needs, the model loaded. The caller has to ``close`` it."""
    runtime = make_runtime(config.model, config.parallel)
    loaded = load_for_training(config.model, runtime, seed=config.seed)
    prompting = make_prompting(config.prompt, config.mixture, loaded)
    return make_grpo_trainer(config, loaded, prompting, runtime, class_names)


def make_grpo_trainer(
    config: Config, loaded: LoadedModel, prompting: Prompting, runtime: Runtime, class_names: Iterable[str] = ()
) -> GRPOTrainer:
    """The GRPO trainer of a config around a loaded model. With several ranks, this shards the weights.

    ``class_names`` are the queries of the training data, whose embeddings may learn faster (``grpo.name_lr_scale``).
    Raises ``ConfigError`` for zoom calls with several ranks.
    """
    _require_one_process(prompting, runtime)
    policy = make_policy(loaded, temperature=config.sampling.temperature)
    # LoRA needs no copy.
    has_copy = config.grpo.has_reference and loaded.adapters is None
    reference = _copy_reference(policy, runtime) if has_copy else None
    has_base = config.grpo.has_reference and loaded.adapters is not None
    sharded = _shard(config.grpo, loaded, policy, runtime, class_names, parallel=config.parallel)
    if reference is not None and runtime.shards_weights:
        _shard_weights(reference, runtime, config.parallel)
    elif reference is not None:
        reference.to(runtime.device)
    merges = config.sampling.engine == "builtin" and merges_adapters(
        config.sampling.weights,
        has_adapters=loaded.adapters is not None,
        on_cpu=runtime.device.type == "cpu",
        dtype=runtime.dtype,
        in_4bit=config.model.load_in_4bit,
    )
    correction = SamplerCorrection(
        importance_cap=config.sampling.importance_cap, max_gap=_MAX_SAMPLER_GAP[runtime.dtype]
    )
    runner = PolicyRunner(
        policy=policy,
        runtime=runtime,
        engine=sharded.engine,
        gathered=sharded.gathered,
        # vLLM has weights of its own, so only images need the gathered copy.
        gather=partial(loaded.gathered, only_vision=config.sampling.engine == "vllm"),
        feature_cache=_feature_cache(config.model),
        count_update=_count_update(config.model, loaded),
    )
    generator = _make_generator(config.sampling, loaded, sharded.gathered or policy, runner, merges=merges)
    return GRPOTrainer(
        runner=runner,
        generator=generator,
        sampler_messages=generator.server_messages if isinstance(generator, VLLMGenerator) else None,
        render=make_renderer(loaded, prompting),
        grader=make_grader(config.reward, config.prompt, config.mixture, loaded.family.box_space),
        optimizer=sharded.optimizer,
        learning_rate_at=_schedule(config.grpo, first=config.grpo.warm_start_steps),
        config=config.grpo,
        params=GenerationParams(
            max_completion_tokens=config.sampling.max_completion_tokens, temperature=config.sampling.temperature
        ),
        seed=config.seed,
        # the policy's own current log-probs need no correction
        correction=correction if merges or config.sampling.engine == "vllm" or config.sampling.max_staleness else None,
        reference=reference,
        reference_mode=loaded.adapters_disabled if has_base else None,
        write_target=None if config.grpo.demonstrations == "off" else _demonstration_writer(loaded, prompting),
        warm_start=_make_warm_start(config, loaded, prompting, runner, sharded.optimizer),
        zoom=prompting.zoom,
        num_workers=_num_workers(config.data, runtime),
        max_staleness=config.sampling.max_staleness,
    )


def _require_one_process(prompting: Prompting, runtime: Runtime) -> None:
    if prompting.zoom and runtime.ranks.count > 1:
        raise ConfigError(f"prompt.zoom_calls is true with {runtime.ranks.count} processes; expected one process")


def _copy_reference(policy: Policy, runtime: Runtime) -> Policy:
    """A frozen copy of a policy that is not sharded yet. With FSDP2 both still have the same weights in memory."""
    # Sharding with FSDP2 replaces the weights of a policy, and does not change them.
    shares = runtime.strategy == "fsdp2"
    known: dict[int, Any] = (
        {id(one): nn.Parameter(one.data, requires_grad=False) for one in policy.parameters()} if shares else {}
    )
    reference = copy.deepcopy(policy, known).requires_grad_(False).eval()
    if not shares:
        convert_weights(reference, stored_dtypes(reference, runtime.dtype))
    return reference


def _make_warm_start(
    config: Config, loaded: LoadedModel, prompting: Prompting, runner: PolicyRunner, optimizer: AnyOptimizer
) -> SFTTrainer | None:
    """The supervised trainer of the steps before GRPO, which share its policy and optimizer; None if there are none.

    Learning rate and schedule are those of ``[sft]``, clipping and microbatches those of ``[grpo]``.
    """
    num_steps = config.grpo.warm_start_steps
    if not num_steps:
        return None
    return SFTTrainer(
        runner=runner,
        render=make_renderer(loaded, prompting),
        target_ids=_target_ids(loaded, prompting),
        zoom_call=_zoom_call(loaded, prompting) if prompting.zoom else None,
        optimizer=optimizer,
        learning_rate_at=_schedule(replace(config.sft, steps=num_steps)),
        max_grad_norm=config.grpo.max_grad_norm,
        microbatch_tokens=config.grpo.microbatch_tokens,
        num_workers=_num_workers(config.data, runner.runtime),
    )


def make_sft_trainer(
    config: Config, loaded: LoadedModel, prompting: Prompting, runtime: Runtime, class_names: Iterable[str] = ()
) -> SFTTrainer:
    """The supervised trainer of a config around a loaded model, under the same prompts as GRPO.

    ``class_names`` as for ``make_grpo_trainer``. Raises ``ConfigError`` for zoom calls with several ranks.
    """
    _require_one_process(prompting, runtime)
    policy = make_policy(loaded, temperature=1.0)
    sharded = _shard(config.sft, loaded, policy, runtime, class_names, parallel=config.parallel)
    # SFT does not sample. Only a frozen tower that ZeRO-3 shards has to be gathered: FSDP2 leaves it unsharded, and a
    # trained tower encodes images in the sharded forward pass.
    needs_gathering = runtime.strategy == "zero3" and config.model.freeze_vision
    return SFTTrainer(
        runner=PolicyRunner(
            policy=policy,
            runtime=runtime,
            engine=sharded.engine,
            gathered=sharded.gathered if needs_gathering else None,
            gather=loaded.gathered if needs_gathering else nullcontext,
            feature_cache=_feature_cache(config.model),
            count_update=_count_update(config.model, loaded),
        ),
        render=make_renderer(loaded, prompting),
        target_ids=_target_ids(loaded, prompting),
        zoom_call=_zoom_call(loaded, prompting) if prompting.zoom else None,
        optimizer=sharded.optimizer,
        learning_rate_at=_schedule(config.sft),
        max_grad_norm=config.sft.max_grad_norm,
        microbatch_tokens=config.sft.microbatch_tokens,
        num_workers=_num_workers(config.data, runtime),
    )


def _feature_cache(model: ModelConfig) -> FeatureCache | None:
    """The cache of the features of a frozen tower; None for a trained one."""
    return FeatureCache(max_bytes=round(model.feature_cache_gib * 2**30)) if model.freeze_vision else None


def _count_update(model: ModelConfig, loaded: LoadedModel) -> Callable[[PackedRow], int]:
    """A function from a packed row to the operations of its forward and backward pass."""
    text = loaded.model.config.get_text_config()
    rank = model.lora_rank if model.train == "lora" else None

    def count(row: PackedRow) -> int:
        return update_operations(text, row_segments(row), num_logits=len(row.targets), lora_rank=rank)

    return count


def _num_workers(data: DataConfig, runtime: Runtime) -> int:
    """Threads that read images: ``data.num_workers``, or the default of the device."""
    return default_num_workers(runtime.device) if data.num_workers is None else data.num_workers


def _target_ids(loaded: LoadedModel, prompting: Prompting) -> Callable[[Sample, RenderedPrompt], list[int]]:
    """A function from a sample to the token ids of its ground-truth completion, with the end token."""
    end = end_token_id(loaded.model, loaded.tokenizer)
    write = _target_text(loaded, prompting)

    def target_ids(sample: Sample, rendered: RenderedPrompt) -> list[int]:
        return [*loaded.tokenizer(write(sample, rendered)[1], add_special_tokens=False).input_ids, end]

    return target_ids


def _zoom_call(loaded: LoadedModel, prompting: Prompting) -> Callable[[Sample, RenderedPrompt], ZoomCall | None]:
    """A function from a sample to the zoom call of its target: its region, or one around its boxes, equal at each step.

    None for a sample without a region whose boxes are too large for a zoom (``region_around``), or that has none.
    """
    end = end_token_id(loaded.model, loaded.tokenizer)

    def zoom_call(sample: Sample, rendered: RenderedPrompt) -> ZoomCall | None:
        region = sample.region
        if region is None:
            boxes = [one.box for one in TASKS[sample.task].answer_boxes(sample.target)]
            numbers = StepKey(seed=0, step=0).uniforms(f"zoom/{sample.id}", 0, 3).tolist()
            region = region_around(boxes, sample.target_size, numbers)
        if region is None or rendered.answer_call is None:
            return None
        text = render_zoom_call(
            region,
            space=loaded.family.box_space,
            original=sample.target_size,
            resized=rendered.prompt.images[sample.target_image].resized,
            thinking_text=sample.rationale if prompting.thinking_for(sample) else None,
        )
        rest = strip_opened_prefix(text, rendered.prompt.opened)
        ids = (*loaded.tokenizer(rest, add_special_tokens=False).input_ids, end)
        turn = rendered.answer_call(text, ids)
        return None if turn is None else ZoomCall(ids, turn)

    return zoom_call


def _demonstration_writer(loaded: LoadedModel, prompting: Prompting) -> WriteTarget:
    """The ground-truth completion of a sample as in SFT; None if its prompt requests reasoning and it has none."""
    end = end_token_id(loaded.model, loaded.tokenizer)
    write = _target_text(loaded, prompting)

    def demonstration(sample: Sample, rendered: RenderedPrompt) -> WrittenTarget | None:
        if prompting.thinking_for(sample) and sample.rationale is None:
            return None
        text, rest = write(sample, rendered)
        encoded = loaded.tokenizer(rest, add_special_tokens=False, return_offsets_mapping=True)
        digits = confidence_spans(rest)
        in_loss = [
            not any(start < last and first < stop for first, last in digits) for start, stop in encoded.offset_mapping
        ]
        return WrittenTarget(text=text, token_ids=(*encoded.input_ids, end), in_loss=(*in_loss, True))

    return demonstration


def _target_text(loaded: LoadedModel, prompting: Prompting) -> Callable[[Sample, RenderedPrompt], tuple[str, str]]:
    """A function from a sample to the text of its ground-truth completion, and the part of it behind the prompt.

    SFT and demonstrations share it.
    """

    def write(sample: Sample, rendered: RenderedPrompt) -> tuple[str, str]:
        text = TASKS[sample.task].render_for(
            sample,
            space=loaded.family.box_space,
            resized=rendered.prompt.images[sample.target_image].resized,
            thinking_text=sample.rationale if prompting.thinking_for(sample) else None,
        )
        # A chat template may end inside a think block: its tag is in the prompt and must not come twice.
        return text, strip_opened_prefix(text, rendered.prompt.opened)

    return write


def _make_generator(
    sampling: SamplingConfig, loaded: LoadedModel, policy: Policy, runner: PolicyRunner, *, merges: bool
) -> Generator:
    """The engine that samples in training: the policy itself, or vLLM, which is started here.

    ``merges``: the policy samples with its adapters merged.
    """
    if sampling.engine == "builtin":
        return HFGenerator(
            policy,
            loaded.tokenizer,
            merge_adapters=merges,
            cuda_graph=sampling.cuda_graph,
            prompts_per_batch=sampling.prompts_per_batch,
            encode_turns=runner.encode_turns,
        )
    runtime = runner.runtime
    return start_vllm(
        loaded,
        policy.rules,
        sampling,
        dtype=runtime.dtype_name,
        on_cpu=runtime.device.type == "cpu",
        trainer=runtime.ranks.training_process,
    )


class _Sharded(NamedTuple):
    """A policy's optimizer after sharding, an unsharded copy of the policy, and DeepSpeed's engine.

    ``gathered`` is set if no rank has all weights, ``engine`` under ZeRO.
    """

    optimizer: AnyOptimizer
    gathered: Policy | None = None
    engine: ZeroPolicy | None = None


def _shard(
    settings: GRPOConfig | SFTConfig,
    loaded: LoadedModel,
    policy: Policy,
    runtime: Runtime,
    class_names: Iterable[str],
    *,
    parallel: ParallelConfig,
) -> _Sharded:
    """Shard weights and optimizer over the ranks, as the strategy says, and make the optimizer."""
    runtime.ranks.check_equal(one for one in policy.parameters() if one.requires_grad)
    gathered = None
    # The order matters: the copy is made of the unsharded model, the optimizer of the sharded parameters.
    if runtime.shards_weights:
        loaded.add_gathered_copy(
            runtime.device,
            linear_dtype=runtime.autocast_dtype,
            replicate_tower=runtime.strategy == "fsdp2",
            stored_dtype=stored_dtypes(policy, runtime.dtype),
        )
        gathered = make_policy(loaded.unsharded(), temperature=policy.rules.temperature)
    if runtime.strategy == "fsdp2":
        assert loaded.gathered_copy is not None
        _shard_weights(policy, runtime, parallel, replicated=loaded.gathered_copy.shared)
    optimizer = _make_optimizer(settings, loaded, policy, class_names)
    if not runtime.strategy.startswith("zero"):
        return _Sharded(optimizer, gathered)
    if not dist.is_initialized():
        # DeepSpeed needs a process group, also of one process
        backend = "nccl" if runtime.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    engine, zero_optimizer = start_zero(
        policy,
        optimizer,
        stage=3 if runtime.strategy == "zero3" else 2,
        num_processes=runtime.ranks.count,
        max_grad_norm=settings.max_grad_norm,
        autocast_dtype=runtime.autocast_dtype,
        offload=parallel.offload_optimizer,
    )
    return _Sharded(zero_optimizer, gathered, engine)


def _shard_weights(
    policy: Policy, runtime: Runtime, parallel: ParallelConfig, *, replicated: Iterable[nn.Parameter] = ()
) -> None:
    # A reference is sharded with FSDP2 under ZeRO-3, too, where `shard_size` has no effect.
    size = parallel.shard_size if runtime.strategy == "fsdp2" else None
    shard(
        policy,
        runtime.device,
        runtime.ranks.count,
        shard_size=size,
        dtype=runtime.autocast_dtype,
        replicated=replicated,
        stored_dtype=stored_dtypes(policy, runtime.dtype),
    )


def _make_optimizer(
    settings: GRPOConfig | SFTConfig, loaded: LoadedModel, policy: Policy, class_names: Iterable[str]
) -> torch.optim.Optimizer:
    scales = {"vision": settings.vision_lr_scale, "projector": settings.projector_lr_scale}
    parts = loaded.vision_parts()
    return make_optimizer(
        policy.parameters(),
        weight_decay=settings.weight_decay,
        scaled_rows=_class_name_rows(settings.name_lr_scale, loaded, class_names),
        scale_of=lambda parameter: scales[parts[parameter]] if parameter in parts else 1.0,
        kind=settings.optimizer,
    )


def _schedule(settings: GRPOConfig | SFTConfig, *, first: int = 0) -> Callable[[int], float]:
    """From a step to its learning rate; ``first``: the step that the schedule begins with."""

    def learning_rate_at(step: int) -> float:
        return learning_rate(
            step - first,
            peak=settings.learning_rate,
            num_steps=settings.steps - first,
            warmup_steps=settings.warmup_steps,
            schedule=settings.schedule,
        )

    return learning_rate_at


def _class_name_rows(scale: float, loaded: LoadedModel, class_names: Iterable[str]) -> ScaledRows | None:
    """The embedding rows of the tokens of class names, at the start of a text and after a space; None without scale."""
    if scale == 1:
        return None
    texts = [text for name in sorted(set(class_names)) for text in (name, f" {name}")]
    ids = {token for text in texts for token in loaded.tokenizer(text, add_special_tokens=False).input_ids}
    table: Any = loaded.model.get_input_embeddings().weight
    return ScaledRows(table, torch.tensor(sorted(ids)), scale)
