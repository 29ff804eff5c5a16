"""From the sections of a config to the parts of a run that do not depend on the training method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from virft.config.schema import (
    AugmentConfig,
    Config,
    MixtureConfig,
    ModelConfig,
    MonitorsConfig,
    ParallelConfig,
    PromptConfig,
    RewardConfig,
    RunConfig,
    values,
)
from virft.config.setting import format_value
from virft.data.augmentation import AugmentationLimits, make_augmenter
from virft.generation.slow_sampler import slow_sampler_warning
from virft.geometry.boxes import BoxSpace
from virft.inference.prompting import Prompting, check_prompts, resolve_prompting
from virft.models.attention.varlen import note_on_stored_scores
from virft.models.layer_shapes import largest_head
from virft.models.load import LoadedModel, load_model
from virft.models.precision import Precision, precision_card, resolve_dtype
from virft.models.segmenter import SamSegmenter, load_segmenter
from virft.models.stored_dtypes import convert_weights, stored_dtypes
from virft.models.vision import FeatureCache
from virft.recipes.mask_reward import MaskReward
from virft.recipes.own_questions import require_box_space
from virft.recipes.preflight import LARGE_IMAGES, PROMPT_LENGTH, SLOW_SAMPLER, CheckedRun, thinking_by_origin
from virft.recipes.reward_rule import make_reward_rule
from virft.recipes.rollout_images import rollout_images
from virft.rewards.extra import name_of_extra
from virft.rewards.options import Preset
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import MASK, MASK_BOUNDS
from virft.training.distributed import device
from virft.training.freed_memory import keep_freed_memory
from virft.training.loop import Augment, LoopSettings
from virft.training.monitors import RewardParts
from virft.training.run import dtype_of_run
from virft.training.runtime import Runtime, start_runtime
from virft.training.trackers import Trackers
from virft.training.trainable import prepare_for_training, weights_dtype


def make_runtime(model: ModelConfig, parallel: ParallelConfig, *, resumed: Path | None = None) -> Runtime:
    """The processes, device and precision of a training run; sets the precision of float32 products of the GPU.

    ``resumed``: folder of a run that is resumed; with ``model.dtype`` "auto" its precision is that of its start.
    """
    runtime = start_runtime(
        strategy=parallel.strategy,
        offload_optimizer=parallel.offload_optimizer,
        timeout_minutes=parallel.timeout_minutes,
    )
    dtype = model.dtype
    if dtype == "auto" and resumed is not None:
        dtype = dtype_of_run(resumed) or dtype
    if runtime.device.type == "cuda":
        torch.set_float32_matmul_precision("high" if model.tf32 else "highest")
    return replace(runtime, dtype=getattr(torch, resolve_dtype(dtype, runtime.device)))


def load_for_training(model: ModelConfig, runtime: Runtime, *, seed: int) -> LoadedModel:
    """The model of ``[model]`` with its trained and frozen weights set. Trained weights are float32 in any precision.

    Adapters in a model folder are merged first: training starts from them, and under LoRA they belong to the reference.
    The precision is recorded in the card of the model, and so in what the run saves.
    """
    is_mapped = not model.load_in_4bit
    loaded = load_model(
        model.path,
        dtype=weights_dtype(model, runtime.dtype),
        pixels=(model.min_pixels, model.max_pixels),
        in_4bit=model.load_in_4bit,
        mapped=is_mapped,
    )
    if loaded.adapters is not None:
        loaded.merge_adapters()
    loaded.precision = Precision(runtime.dtype_name, model.load_in_4bit)
    loaded.card |= precision_card(loaded.precision)
    prepare_for_training(loaded, model, seed=seed, dtype=runtime.dtype)
    # FSDP2 moves, converts and shards one block at a time: a GPU may not have the memory for all of them. Until then
    # the processes of a machine share the mapped files. DeepSpeed moves the whole model to the device before it shards.
    if runtime.strategy != "fsdp2":
        loaded.model.to(runtime.device)
        # On a GPU, so that no converted weight is ever in main memory.
        if is_mapped:
            convert_weights(loaded.model, stored_dtypes(loaded.model, runtime.dtype))
    if model.compile:
        loaded.compile_layers()
    if runtime.device.type == "cpu":
        keep_freed_memory()
    note = note_on_stored_scores(
        runtime.device,
        runtime.dtype,
        head_dim=largest_head(loaded.model.config.get_text_config()),
        bidirectional_images=loaded.family.bidirectional_images,
    )
    if note is not None:
        loaded.notes += (note,)
    return loaded


def make_prompting(prompt: PromptConfig, mixture: Mapping[str, MixtureConfig], loaded: LoadedModel) -> Prompting:
    """The prompting of a training run. It is also recorded in the model's card, and so in what the run saves."""
    prompting = resolve_prompting(
        loaded,
        template=prompt.template,
        thinking=prompt.thinking,
        zoom=prompt.zoom_calls,
        thinking_by_origin=thinking_by_origin(prompt, mixture),
    )
    loaded.card |= prompting.card
    return prompting


def sampler_warnings(
    run: CheckedRun, loaded: LoadedModel, num_parameters: int, runtime: Runtime
) -> list[tuple[str, str]]:
    """Return event and message of the warning that another engine would sample much faster; empty without one."""
    message = slow_sampler_warning(
        run.config,
        run.method,
        num_parameters=num_parameters,
        on_vllm=loaded.family.on_vllm,
        on_gpu=runtime.device.type == "cuda",
    )
    return [] if message is None else [(SLOW_SAMPLER, message)]


def check_run_prompts(loaded: LoadedModel, prompting: Prompting, run: CheckedRun) -> list[tuple[str, str]]:
    """Return event and message of each warning: prompts that leave too little room for a completion, large images.

    SFT generates in validation only. Raises ``DataError`` if the model would refuse a sample of the training or
    validation data, and ``ConfigError`` if their questions demand coordinates that the model does not write.
    """
    space, longest = loaded.family.box_space, run.config.sampling.max_completion_tokens
    require_box_space(run.data, space)
    checked = check_prompts(loaded, prompting, run.data)
    found = [checked.length_warning(longest) if run.method == "grpo" else None]
    large = checked.image_warning() if run.config.model.max_pixels is None else None
    for name, store in run.validation.items():
        require_box_space(store, space)
        checked = check_prompts(loaded, prompting.of_origin(name), (sample for sample in store if sample.queried))
        warning = checked.length_warning(longest)
        found.append(f"validation set {store.folder}: {warning}" if warning else None)
    warnings = [(PROMPT_LENGTH, warning) for warning in found if warning is not None]
    return [*warnings, *([(LARGE_IMAGES, large)] if large is not None else [])]


def make_segmenter(path: str) -> SamSegmenter:
    """A promptable segmenter on this process's device."""
    return load_segmenter(path, device=device())


def make_mask_reward(reward: RewardConfig) -> MaskReward | None:
    """The segmenter of the reward on this process's device, with an empty cache; None if none is configured."""
    if reward.segmenter is None:
        return None
    cache = FeatureCache(max_bytes=round(reward.segmenter_cache_gib * 2**30))
    return MaskReward(segmenter=make_segmenter(reward.segmenter), cache=cache)


def make_grader(
    reward: RewardConfig, prompt: PromptConfig, mixture: Mapping[str, MixtureConfig], box_space: BoxSpace
) -> Grader:
    """Parser and reward of completions; each dataset of a mixture has its own preset and thinking mode.

    Loads the segmenter, if the reward has one.
    """
    segment = make_mask_reward(reward)

    def grader(preset: Preset | None, thinking: bool) -> Grader:
        rule = make_reward_rule(reward, preset)
        return Grader(rule=rule, thinking=thinking, box_space=box_space, segment=segment)

    thinking = thinking_by_origin(prompt, mixture)
    by_origin = {name: grader(part.preset, thinking[name]) for name, part in mixture.items()}
    return replace(grader(None, prompt.thinking), by_origin=by_origin)


def reward_parts(grader: Grader, tasks: Iterable[str]) -> RewardParts:
    """The reward parts that the monitors compare, for training data of these tasks."""
    accuracy: dict[str, tuple[float, float]] = {}
    for rule in (grader.rule, *(own.rule for own in grader.by_origin.values())):
        accuracy |= dict.fromkeys(map(name_of_extra, rule.extra), (-1.0, 1.0))
        threshold_rises = (rule.iou_threshold_end or 0.0) > rule.iou_threshold
        for task in tasks:
            rewards = TASKS[task].rewards[rule.preset]
            # a part whose threshold rises may be flat although the answers become better
            if not (rewards.uses_threshold and threshold_rises):
                accuracy |= rewards.accuracy_bounds
            if rule.uses_masks and TASKS[task].masks is not None:
                accuracy[MASK] = MASK_BOUNDS
    return RewardParts(accuracy=accuracy, weights=grader.rule.weights)


def loop_settings(
    run: RunConfig,
    monitors: MonitorsConfig,
    *,
    num_steps: int,
    validate_every: int,
    parts: RewardParts,
    warm_start_steps: int = 0,
) -> LoopSettings:
    """The intervals and monitors of a run of ``num_steps`` steps, of which the first ``warm_start_steps`` are a warm
    start."""
    return LoopSettings(
        num_steps=num_steps,
        save_every=run.save_every,
        keep_checkpoints=run.keep_checkpoints,
        log_every=run.log_every,
        validate_every=validate_every,
        patience=run.patience,
        monitors=monitors,
        parts=parts,
        warm_start_steps=warm_start_steps,
    )


def make_trackers(config: Config, folder: Path, runtime: Runtime) -> Trackers:
    """The experiment trackers of a run in ``folder``, not started; none in ranks other than 0."""
    return Trackers(
        config.run.trackers if runtime.ranks.is_first else (),
        folder,
        config={setting.key: _plain(value) for setting, value in values(config)},
        draw=rollout_images,
        images_every=config.run.tracker_images_every,
    )


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else format_value(value)


def build_augmenter(augment: AugmentConfig, *, seed: int) -> Augment | None:
    """The data augmentation of ``[augment]``; None if it is off."""
    if augment == AugmentConfig():
        return None
    limits = AugmentationLimits(
        resized_crop=augment.resized_crop,
        horizontal_flip=augment.horizontal_flip,
        colour_jitter=augment.colour_jitter,
    )
    return make_augmenter(limits, seed)
