"""Grading of a completion: parse its text, then compute its reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from virft.errors import RewardFailed
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import ImageSize, RewardContext, RewardReport, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Grader:
    """Settings that virft's own trainer and the rewards for other trainers grade with.

    ``by_origin``: dataset of a mixture -> its own grader.
    """

    rule: RewardRule
    thinking: bool
    box_space: BoxSpace
    by_origin: Mapping[str, Grader] = field(default_factory=dict)

    def of(self, sample: Sample) -> Grader:
        """Return the grader of the sample's dataset."""
        return self.by_origin.get(sample.origin, self)

    def grade(self, text: str, sample: Sample, *, resized: ImageSize, context: RewardContext) -> RewardReport:
        """Return the reward of one completion. It sees the completion only, never the example in the prompt.

        ``resized``: the size in pixels of the target image after the model's image processor. Raises ``RewardFailed``
        if a reward function of the user does.
        """
        if (own := self.of(sample)) is not self:
            return own.grade(text, sample, resized=resized, context=context)
        reading = TASKS[sample.task].read_for(
            text, sample, thinking=self.thinking, space=self.box_space, resized=resized
        )
        try:
            return compute_reward(self.rule, sample.task, reading, sample.target, replace(context, query=sample.query))
        except RewardFailed as error:
            raise RewardFailed(error.message, lines=error.lines, sample=sample.id) from error.__cause__
