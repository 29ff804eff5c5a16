"""Grading of a completion: parse its text, segment its box if masks are rewarded, then compute its reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from virft.errors import NonFiniteReward, RewardFailed
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import Box, ImageSize, Reading, RewardContext, RewardReport, Sample, SegmentedBox, Unreadable

SegmentBoxes = Callable[[Sample, Sequence[Box]], Sequence[SegmentedBox]]
"""(sample whose target has a mask, different predicted boxes) -> the mask of each box, compared with the target's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grader:
    """Settings that virft's own trainer and the rewards for other trainers grade with.

    ``segment``: makes the masks that ``RewardRule.uses_masks`` rewards. ``by_origin``: dataset of a mixture -> its own
    grader.
    """

    rule: RewardRule
    thinking: bool
    box_space: BoxSpace
    segment: SegmentBoxes | None = None
    by_origin: Mapping[str, Grader] = field(default_factory=dict)

    def of(self, sample: Sample) -> Grader:
        """Return the grader of the sample's dataset."""
        return self.by_origin.get(sample.origin, self)

    def grade(self, text: str, sample: Sample, *, resized: ImageSize, context: RewardContext) -> RewardReport:
        """Return the reward of one completion. It sees the completion only, never the example in the prompt.

        ``resized``: the size in pixels of the target image after the model's image processor. Raises ``RewardFailed``
        if a reward function of the user does.
        """
        reading = self.read(text, sample, resized=resized)
        (segmented,) = self.segment_answers(sample, [reading])
        return self.reward(reading, sample, replace(context, segmented=segmented))

    def grade_group(
        self, texts: Sequence[str], sample: Sample, *, resized: ImageSize, contexts: Sequence[RewardContext]
    ) -> list[RewardReport]:
        """Return the reward of each completion of a sample; ``segment`` gets the boxes of all in one call.

        NaN in total if a reward function of the user returns a number that is not finite. Raises ``RewardFailed`` as
        ``grade`` does.
        """
        readings = [self.read(text, sample, resized=resized) for text in texts]
        segmented = self.segment_answers(sample, readings)
        return [
            self._reward_or_nan(reading, sample, replace(context, segmented=mask))
            for reading, mask, context in zip(readings, segmented, contexts, strict=True)
        ]

    def _reward_or_nan(self, reading: Reading, sample: Sample, context: RewardContext) -> RewardReport:
        try:
            return self.reward(reading, sample, context)
        except NonFiniteReward as error:
            # The trainer skips the whole step and names the function, once all groups are known.
            unusable = Reading(text=reading.text, well_formed=False, answer=Unreadable(reason=str(error)))
            return RewardReport(total=math.nan, parts={}, reading=unusable)

    def read(self, text: str, sample: Sample, *, resized: ImageSize) -> Reading:
        """Return the parsed completion; ``resized`` as in ``grade``."""
        own = self.of(sample)
        return TASKS[sample.task].read_for(text, sample, thinking=own.thinking, space=own.box_space, resized=resized)

    def segment_answers(self, sample: Sample, readings: Sequence[Reading]) -> list[SegmentedBox | None]:
        """Return the mask of each answer about one sample, in one call of ``segment``; None if no mask is rewarded.

        Equal boxes are segmented once, so that equal answers have equal rewards. An unreadable answer has an IoU of 0.
        """
        own = self.of(sample)
        if own.segment is None or not own.rule.uses_masks or not TASKS[sample.task].has_masks or not sample.has_mask:
            return [None] * len(readings)
        boxes = list(dict.fromkeys(one.answer for one in readings if isinstance(one.answer, Box)))
        found = dict(zip(boxes, own.segment(sample, boxes), strict=True)) if boxes else {}
        nothing = SegmentedBox(iou=0.0, rle="")
        return [found[one.answer] if isinstance(one.answer, Box) else nothing for one in readings]

    def reward(self, reading: Reading, sample: Sample, context: RewardContext) -> RewardReport:
        """Return the reward of a parsed completion; raises ``RewardFailed`` as ``grade`` does."""
        own = self.of(sample)
        try:
            return compute_reward(own.rule, sample.task, reading, sample.target, replace(context, query=sample.query))
        except RewardFailed as error:
            raise RewardFailed(error.message, lines=error.lines, sample=sample.id) from error.__cause__
