"""Reward functions of multiclass detection: those of detection with class-aware matching, and ``class_f1``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial

from virft.rewards.detection import (
    Matching,
    iou_threshold_at,
    match_best,
    match_like_paper,
    reward_matching,
    reward_matching_like_paper,
)
from virft.text.labelled_boxes import split_by_class
from virft.text.labels import normalize_label, normalize_name
from virft.types import Detections, LabelledDetections, Reading, RewardContext

Match = Callable[[Detections, Detections], Matching]
"""Matching of the predicted boxes of one class with its targets."""


def match_by_class(answer: LabelledDetections, target: LabelledDetections, match: Match) -> Matching:
    """Match the boxes of each class of the question with the targets of that class; all indices are in the whole.

    A box whose label is no class of the question has no target.
    """
    targets: list[int | None] = [None] * len(answer.items)
    ious = [0.0] * len(answer.items)
    dropped: set[int] = set()
    for part in split_by_class(answer, target):
        if not part.places:
            continue
        found = match(part.answer, part.target)
        for index, place in enumerate(part.places):
            column = found.targets[index]
            targets[place] = None if column is None else part.target_places[column]
            ious[place] = found.ious[index]
        dropped.update(part.places[index] for index in found.dropped)
    return Matching(targets=tuple(targets), ious=tuple(ious), dropped=frozenset(dropped))


def mean_class_f1(matching: Matching, answer: LabelledDetections, target: LabelledDetections) -> float:
    """Return the mean F1, in [0, 1], of the classes that have a target or are named by a predicted box.

    So an object of a rare class counts as much as many of a frequent one, and naming a class without localising it
    gains nothing. No such class: 1 for an answer without any prediction, 0 for invalid elements.

    >>> from virft.types import Box, Detection
    >>> cat, dog, cow = (Detection(box=Box(x1=0, y1=0, x2=2, y2=2), label=label) for label in ("cat", "dog", "cow"))
    >>> target = LabelledDetections(items=(cat, dog), classes=("cat", "dog"))
    >>> matching = Matching(targets=(0, None), ious=(1.0, 0.0))
    >>> mean_class_f1(matching, LabelledDetections(items=(cat, cow)), target)  # cat 1, dog and cow 0
    0.3333333333333333
    """
    num_boxes = Counter(normalize_name(item.label or "") for item in target.items)
    num_hits: Counter[str] = Counter()
    names = {label: normalize_label(label) for label in {item.label or "" for item in answer.items}}
    for index, item in enumerate(answer.items):
        if index not in matching.dropped:
            num_boxes[names[item.label or ""]] += 1
            num_hits[names[item.label or ""]] += matching.targets[index] is not None
    if not num_boxes:
        return float(answer.num_predicted == len(matching.dropped))
    return math.fsum(2 * num_hits[name] / number for name, number in num_boxes.items()) / len(num_boxes)


def multiclass_rewards(
    reading: Reading,
    target: LabelledDetections,
    context: RewardContext,
    *,
    iou_threshold: float = 0.5,
    iou_threshold_end: float | None = None,
    iou_weight: float = 1.0,
    confidence_weight: float = 1.0,
) -> dict[str, float]:
    """Return ``iou``, ``confidence`` and ``class_f1``. Unreadable: all 0.

    ``iou`` and ``confidence``: as in ``detection_rewards``, over the boxes of all classes, but a box matches only
    targets of its own class. ``class_f1``: see ``mean_class_f1``.
    """
    answer = reading.answer
    if not isinstance(answer, LabelledDetections):
        return {"iou": 0.0, "confidence": 0.0, "class_f1": 0.0}
    match = partial(
        match_best,
        iou_threshold=iou_threshold_at(iou_threshold, iou_threshold_end, context),
        iou_weight=iou_weight,
        confidence_weight=confidence_weight,
    )
    matching = match_by_class(answer, target, match)
    parts = reward_matching(matching, answer, num_targets=len(target.items))
    return {**parts, "class_f1": mean_class_f1(matching, answer, target)}


def paper_multiclass_rewards(
    reading: Reading,
    target: LabelledDetections,
    context: RewardContext,
    *,
    iou_threshold: float = 0.5,
    iou_threshold_end: float | None = None,
) -> dict[str, float]:
    """Return ``iou`` and ``confidence`` of ``paper_detection_rewards`` with class-aware matching.

    The paper has no questions about several classes; all faults of its formulas remain.
    """
    answer = reading.answer
    if not isinstance(answer, LabelledDetections) or not answer.items or answer.invalid or not target.items:
        return {"iou": 0.0, "confidence": 0.0}
    threshold = iou_threshold_at(iou_threshold, iou_threshold_end, context)
    matching = match_by_class(answer, target, partial(match_like_paper, iou_threshold=threshold))
    return reward_matching_like_paper(matching, answer, num_targets=len(target.items))
