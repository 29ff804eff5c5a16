"""Grading of a completion: parse its text, segment its boxes if masks are rewarded, then compute its reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from virft.errors import NonFiniteReward, RewardFailed
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import (
    BoxPair,
    ImageSize,
    Reading,
    RewardContext,
    RewardReport,
    Sample,
    SegmentedAnswer,
    SegmentedBox,
    Unreadable,
)

SegmentBoxes = Callable[[Sample, Sequence[BoxPair]], Sequence[SegmentedBox]]
"""(sample whose objects have masks, different pairs) -> mask of the box of each pair, compared with its object's."""


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
        (segmented,) = self.segment_answers(sample, [reading], [context])
        return self.reward(reading, sample, replace(context, segmented=segmented))

    def grade_group(
        self, texts: Sequence[str], sample: Sample, *, resized: ImageSize, contexts: Sequence[RewardContext]
    ) -> list[RewardReport]:
        """Return the reward of each completion of a sample; ``segment`` gets the boxes of all in one call.

        NaN in total if a reward function of the user returns a number that is not finite. Raises ``RewardFailed`` as
        ``grade`` does.
        """
        readings = [self.read(text, sample, resized=resized) for text in texts]
        segmented = self.segment_answers(sample, readings, contexts)
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

    def segment_answers(
        self, sample: Sample, readings: Sequence[Reading], contexts: Sequence[RewardContext]
    ) -> list[SegmentedAnswer | None]:
        """Return the masks of each answer about one sample, in one call of ``segment``; None if no mask is rewarded.

        Only boxes with a target are segmented, at most as many of an answer as there are targets. Equal pairs are
        segmented once, so that equal answers have equal rewards. An unreadable answer has no masks.
        """
        own, masks = self.of(sample), TASKS[sample.task].masks
        if own.segment is None or not own.rule.uses_masks or masks is None or not sample.has_mask:
            return [None] * len(readings)
        answers = [
            masks.pair_boxes(reading, sample.target, replace(context, query=sample.query), own.rule)
            for reading, context in zip(readings, contexts, strict=True)
        ]
        pairs = list(dict.fromkeys(pair for one in answers for pair in one.pairs))
        found = dict(zip(pairs, own.segment(sample, pairs), strict=True)) if pairs else {}
        return [SegmentedAnswer(boxes=tuple(found[pair] for pair in one.pairs), num=one.num) for one in answers]

    def reward(self, reading: Reading, sample: Sample, context: RewardContext) -> RewardReport:
        """Return the reward of a parsed completion; raises ``RewardFailed`` as ``grade`` does."""
        own = self.of(sample)
        try:
            return compute_reward(own.rule, sample.task, reading, sample.target, replace(context, query=sample.query))
        except RewardFailed as error:
            raise RewardFailed(error.message, lines=error.lines, sample=sample.id) from error.__cause__
