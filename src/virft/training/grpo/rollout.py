"""Samples to rewarded groups: ask, sample, read, reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from virft.errors import NonFiniteReward
from virft.generation.generator import EncodedPrompt, GenerationParams, Generator
from virft.generation.random_streams import StepKey
from virft.models.renderer import RenderedPrompt
from virft.tasks.grader import Grader
from virft.types import (
    Completion,
    ImageSize,
    Prompt,
    Reading,
    RewardContext,
    RewardReport,
    RolloutGroup,
    Sample,
    Unreadable,
)


def roll_out(
    samples: Sequence[Sample],
    rendered: Sequence[RenderedPrompt],
    encoded: Sequence[EncodedPrompt],
    *,
    generator: Generator,
    grader: Grader,
    group_size: int,
    params: GenerationParams,
    key: StepKey,
    context: RewardContext,
    clock: Callable[[str], None],
    prompts_per_batch: int | None = None,
) -> list[RolloutGroup]:
    """One rewarded group per sample, of which there may be none. ``clock(stage)`` is told of sampling and rewarding.

    ``prompts_per_batch`` prompts are sampled at once, else all: memory, not the samples, depends on it.
    """
    size = prompts_per_batch or max(1, len(encoded))
    drawn = [
        completions
        for start in range(0, len(encoded), size)
        for completions in generator.generate(encoded[start : start + size], group_size, params, key)
    ]
    clock("sampling")
    groups = [
        _group(sample, one.prompt, completions, grader, key.step, context)
        for sample, one, completions in zip(samples, rendered, drawn, strict=True)
    ]
    clock("reward")
    return groups


def _group(
    sample: Sample,
    prompt: Prompt,
    completions: Sequence[Completion],
    grader: Grader,
    step: int,
    context: RewardContext,
) -> RolloutGroup:
    resized = prompt.images[sample.target_image].resized
    return RolloutGroup(
        sample=sample,
        prompt=prompt,
        completions=tuple(completions),
        reports=tuple(
            _report(one.text, sample, resized, grader, replace(context, num_tokens=len(one.token_ids)))
            for one in completions
        ),
        policy_step=step,
    )


def _report(text: str, sample: Sample, resized: ImageSize, grader: Grader, context: RewardContext) -> RewardReport:
    """The reward; of a user's function that gives no finite number, a total that is none either."""
    try:
        return grader.grade(text, sample, resized=resized, context=context)
    except NonFiniteReward as error:
        reading = Reading(text=text, well_formed=False, answer=Unreadable(reason=str(error)))
        return RewardReport(total=math.nan, parts={}, reading=reading)
