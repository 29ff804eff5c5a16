"""Reward functions of detection: overlap of boxes, and calibration of their confidences.

Both parts use the same matching, so each preset is one function that returns both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from virft.geometry.boxes import (
    CROWD_FRAC,
    XYXY,
    assign_by_weight,
    covered_frac,
    iou_matrix,
    match_greedily,
    reaches,
    undisputed_pairs,
)
from virft.types import BoxPair, BoxPairs, Detections, LabelledDetections, Reading, RewardContext


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """The target of each predicted box, in text order.

    ``targets[i]``: index into the target's items, or ``None`` for a false positive; ``ious[i]``: IoU with it, 0
    without; ``dropped``: predicted boxes that do not count at all, because they repeat another one (``paper`` only) or
    lie in a crowd region without a target of their own.
    """

    targets: tuple[int | None, ...]
    ious: tuple[float, ...]
    dropped: frozenset[int] = frozenset()


def iou_threshold_at(start: float, end: float | None, context: RewardContext) -> float:
    """Return the threshold of a step, interpolated linearly from ``start`` at the first step to ``end`` at the last.

    >>> iou_threshold_at(0.25, 0.75, RewardContext(step_frac=0.5)), iou_threshold_at(0.25, None, RewardContext())
    (0.5, 0.25)
    """
    return start if end is None else start + (end - start) * context.step_frac


def match_best(
    predicted: Detections,
    target: Detections,
    *,
    iou_threshold: float,
    iou_weight: float = 1.0,
    confidence_weight: float = 1.0,
) -> Matching:
    """Return the one-to-one matching from the IoU threshold on with the largest weighted sum of IoU + 2 * confidence.

    With equal confidences and no shared targets this is the Hungarian assignment by IoU. The confidences have to take
    part: a matching by IoU alone can, when one box comes closer to its target, jump to fewer pairs, and so give a
    better answer a lower reward. Ties are resolved by coordinates, not by position in the text: where boxes compete,
    predicted and target boxes are sorted first. Source: Hungarian assignment with class probability in the cost, DETR
    (arXiv 2005.12872).

    >>> from virft.types import Box, Detection
    >>> def row(*ends): return Detections(items=tuple(Detection(box=Box(x1=a, y1=0, x2=b, y2=9)) for a, b in ends))
    >>> match_best(row((0, 10), (1, 13)), row((0, 12), (0, 9)), iou_threshold=0.5).targets
    (1, 0)
    """
    items = predicted.items
    ious = iou_matrix([item.box.xyxy for item in items], [item.box.xyxy for item in target.items])
    if iou_weight == 0.0 and confidence_weight == 0.0:
        iou_weight = 1.0
    gains = []
    for item, item_ious in zip(items, ious, strict=True):
        bonus = 2.0 * confidence_weight * item.confidence
        gains.append([iou_weight * iou + bonus if reaches(iou, iou_threshold) else 0.0 for iou in item_ious])
    pairs = undisputed_pairs(gains)
    if pairs is None:
        rows = sorted(range(len(items)), key=lambda index: (*items[index].box.xyxy, items[index].confidence))
        columns = sorted(range(len(target.items)), key=lambda index: target.items[index].box.xyxy)
        assigned = assign_by_weight([[gains[row][column] for column in columns] for row in rows])
        pairs = [(rows[row], columns[column]) for row, column in assigned]
    found: list[int | None] = [None] * len(items)
    found_ious = [0.0] * len(items)
    for row, column in pairs:
        found[row] = column
        found_ious[row] = ious[row][column]
    return Matching(targets=tuple(found), ious=tuple(found_ious), dropped=_in_crowd(predicted, target, found))


def _in_crowd(predicted: Detections, target: Detections, found: Sequence[int | None]) -> frozenset[int]:
    """Predicted boxes without a target that have at least half of their area in a crowd region."""
    if not target.crowd:
        return frozenset()
    regions = [region.xyxy for region in target.crowd]
    return frozenset(
        index
        for index, item in enumerate(predicted.items)
        if found[index] is None and reaches(covered_frac(item.box.xyxy, regions), CROWD_FRAC)
    )


def detection_rewards(
    reading: Reading,
    target: Detections,
    context: RewardContext,
    *,
    iou_threshold: float = 0.5,
    iou_threshold_end: float | None = None,
    iou_weight: float = 1.0,
    confidence_weight: float = 1.0,
) -> dict[str, float]:
    """Return ``iou`` in [0, 1] and ``confidence`` in [-1, 1], both over max(N, M): N predicted, M target boxes.

    ``iou``: sum of matched IoU / max(N, M), so a missing box and an extra box (a duplicate, an invalid element) both
    lower it. Empty target: 1 for an explicit empty answer, 0 for any box. ``confidence``: sum over predicted boxes of
    (2 c hit - c^2) / max(N, M). A proper score: the best c is the true rate of hits; junk at c 0, a missed object and
    an empty answer get 0. Invalid elements count in N only. A box without a target in a crowd region counts in neither
    part, as if it was not predicted. Unreadable: both 0. The weights are those of the total (see ``match_best``).
    Source: Visual-RFT (arXiv 2503.01785) with max(N, M) of its code; Brier 1950 for the confidence.

    >>> from virft.types import Box, Detection
    >>> box = Box(x1=0, y1=0, x2=2, y2=2)
    >>> answer = Detections(items=(Detection(box=box, confidence=0.5), Detection(box=box, confidence=1.0)))
    >>> reading = Reading(text="", well_formed=True, answer=answer)
    >>> detection_rewards(reading, Detections(items=(Detection(box=box),)), RewardContext())  # duplicate: -0.5^2
    {'iou': 0.5, 'confidence': 0.375}
    """
    answer = reading.answer
    if not isinstance(answer, Detections):
        return {"iou": 0.0, "confidence": 0.0}
    matching = match_best(
        answer,
        target,
        iou_threshold=iou_threshold_at(iou_threshold, iou_threshold_end, context),
        iou_weight=iou_weight,
        confidence_weight=confidence_weight,
    )
    return reward_matching(matching, answer, num_targets=len(target.items))


def reward_matching(
    matching: Matching, answer: Detections | LabelledDetections, *, num_targets: int
) -> dict[str, float]:
    """Return ``iou`` and ``confidence`` of ``detection_rewards`` for an answer whose boxes are matched already."""
    num = max(answer.num_predicted - len(matching.dropped), num_targets)
    if num == 0:
        return {"iou": 1.0, "confidence": 0.0}
    scores = [
        item.confidence * ((2.0 if found is not None else 0.0) - item.confidence)
        for index, (item, found) in enumerate(zip(answer.items, matching.targets, strict=True))
        if index not in matching.dropped
    ]
    return {"iou": math.fsum(matching.ious) / num, "confidence": math.fsum(scores) / num}


def pair_boxes(matching: Matching, answer: Detections | LabelledDetections, *, num_targets: int) -> BoxPairs:
    """Return the predicted boxes of a matching that have a target; max(N, M) as in ``reward_matching``."""
    pairs = [
        BoxPair(item.box, target, iou)
        for item, target, iou in zip(answer.items, matching.targets, matching.ious, strict=True)
        if target is not None
    ]
    return BoxPairs(tuple(pairs), num=max(answer.num_predicted - len(matching.dropped), num_targets))


def match_like_paper(predicted: Detections, target: Detections, *, iou_threshold: float) -> Matching:
    """Match boxes greedily by confidence, ties in text order, after exact duplicates (same box) are dropped.

    An IoU has to be above the threshold, as in the published code; everywhere else it may equal it. Source: Visual-RFT
    code.

    >>> from virft.types import Box, Detection
    >>> box = Box(x1=0, y1=0, x2=2, y2=2)
    >>> twice = Detections(items=(Detection(box=box), Detection(box=box)))
    >>> match_like_paper(twice, twice, iou_threshold=0.5)
    Matching(targets=(0, None), ious=(1.0, 0.0), dropped=frozenset({1}))
    """
    items = predicted.items
    first: dict[XYXY, int] = {}
    for index, item in enumerate(items):
        first.setdefault(item.box.xyxy, index)
    order = sorted(first.values(), key=lambda index: -items[index].confidence)
    ious = iou_matrix([item.box.xyxy for item in items], [item.box.xyxy for item in target.items])
    pairs = dict(match_greedily(ious, order, iou_threshold, inclusive=False))
    targets = tuple(pairs.get(index) for index in range(len(items)))
    return Matching(
        targets=targets,
        ious=tuple(ious[index][pairs[index]] if index in pairs else 0.0 for index in range(len(items))),
        dropped=frozenset(range(len(items))).difference(first.values()) | _in_crowd(predicted, target, targets),
    )


def paper_detection_rewards(
    reading: Reading,
    target: Detections,
    context: RewardContext,
    *,
    iou_threshold: float = 0.5,
    iou_threshold_end: float | None = None,
) -> dict[str, float]:
    """Return ``iou``, sum of matched IoU / max(N, M), and ``confidence``, mean over N of c if matched, else 1 - c.

    Both are in [0, 1]. Faults of the published code, reproduced on purpose: greedy matching; exact duplicates are
    dropped at no cost; junk at confidence 0 gets the full confidence reward; one invalid element zeroes the answer; an
    empty answer and an empty target always get 0. Boxes in crowd regions are dropped first. Not reproduced: the
    symbolic-math check that runs first in the published code, and confidences outside [0, 1], which the parser treats
    as invalid. Source: Visual-RFT code; the paper divides R_IoU by N.

    >>> from virft.types import Box, Detection
    >>> target = Detections(items=(Detection(box=Box(x1=0, y1=0, x2=2, y2=2)),))
    >>> junk = Detections(items=(Detection(box=Box(x1=50, y1=50, x2=60, y2=60), confidence=0.0),))
    >>> paper_detection_rewards(Reading(text="", well_formed=True, answer=junk), target, RewardContext())
    {'iou': 0.0, 'confidence': 1.0}
    """
    answer = reading.answer
    if not isinstance(answer, Detections) or not answer.items or answer.invalid or not target.items:
        return {"iou": 0.0, "confidence": 0.0}
    threshold = iou_threshold_at(iou_threshold, iou_threshold_end, context)
    matching = match_like_paper(answer, target, iou_threshold=threshold)
    return reward_matching_like_paper(matching, answer, num_targets=len(target.items))


def reward_matching_like_paper(
    matching: Matching, answer: Detections | LabelledDetections, *, num_targets: int
) -> dict[str, float]:
    """Return ``iou`` and ``confidence`` of ``paper_detection_rewards`` for boxes that are matched already.

    The answer has boxes and no invalid element, and there are targets.
    """
    scores = [
        1.0 - item.confidence if matching.targets[index] is None else item.confidence
        for index, item in enumerate(answer.items)
        if index not in matching.dropped
    ]
    if not scores:
        return {"iou": 0.0, "confidence": 0.0}
    return {
        "iou": math.fsum(matching.ious) / max(len(scores), num_targets),
        "confidence": math.fsum(scores) / len(scores),
    }
