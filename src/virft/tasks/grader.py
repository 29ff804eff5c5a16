"""Text to reward: how answers are read, and what they are paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from virft.geometry.boxes import BoxSpace
from virft.rewards.combine import RewardRule, reward
from virft.tasks import TASKS
from virft.types import ImageSize, RewardContext, RewardReport, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Grader:
    """What virft's own trainer and the rewards for other trainers grade with.

    ``by_origin``: the graders of samples of certain sets, where a run has several.
    """

    rule: RewardRule
    thinking: bool
    box_space: BoxSpace
    by_origin: Mapping[str, Grader] = field(default_factory=dict)

    def of(self, sample: Sample) -> Grader:
        """The grader of the sample's set."""
        return self.by_origin.get(sample.origin, self)

    def grade(self, text: str, sample: Sample, *, resized: ImageSize, context: RewardContext) -> RewardReport:
        """The reward of one completion. Sees the completion only, never the prompt's own example.

        ``resized``: the size that the target image had for the model.
        """
        if (own := self.of(sample)) is not self:
            return own.grade(text, sample, resized=resized, context=context)
        reading = TASKS[sample.task].read_for(
            text, sample, thinking=self.thinking, space=self.box_space, resized=resized
        )
        return reward(self.rule, sample.task, reading, sample.target, context)
