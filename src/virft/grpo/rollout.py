"""Samples to rewarded groups: ask, sample, read, reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from virft.boxes import BoxSpace
from virft.models.generator import EncodedPrompt, GenerationParams, Generator
from virft.models.noise import StepKey
from virft.models.renderer import RenderedPrompt
from virft.rewards.combine import RewardRule, reward
from virft.tasks import TASKS
from virft.types import Completion, Prompt, RewardContext, RewardReport, RolloutGroup, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Grader:
    """Text to reward: how answers are read, and what they are paid.

    ``by_origin``: the graders of samples of certain sets, where a run has several.
    """

    rule: RewardRule
    thinking: bool
    box_space: BoxSpace
    by_origin: Mapping[str, Grader] = field(default_factory=dict)

    def of(self, sample: Sample) -> Grader:
        """The grader of the sample's set."""
        return self.by_origin.get(sample.origin, self)

    def grade(self, text: str, sample: Sample, prompt: Prompt, context: RewardContext) -> RewardReport:
        """The reward of one completion. Sees the completion only, never the prompt's own example."""
        if (own := self.of(sample)) is not self:
            return own.grade(text, sample, prompt, context)
        reading = TASKS[sample.task].read_for(
            text,
            sample,
            thinking=self.thinking,
            space=self.box_space,
            resized=prompt.images[sample.target_image].resized,
        )
        return reward(self.rule, sample.task, reading, sample.target, context)


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
    """One rewarded group per sample. ``clock(stage)`` is told when sampling and rewarding are done.

    ``prompts_per_batch`` prompts are sampled at once, else all: memory, not the samples, depends on it.
    """
    size = prompts_per_batch or len(encoded)
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
    return RolloutGroup(
        sample=sample,
        prompt=prompt,
        completions=tuple(completions),
        reports=tuple(grader.grade(one.text, sample, prompt, context) for one in completions),
        policy_step=step,
    )
