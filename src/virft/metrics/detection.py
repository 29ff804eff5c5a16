"""Precision, recall and F1 of predicted boxes at one IoU, and habits that average precision hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from virft.geometry.boxes import CROWD_FRAC, covered_frac, iou_matrix, match_greedily, reaches
from virft.metrics.measurement import Measurement, ratio
from virft.text.answers import is_at_most_1
from virft.types import Detections, Reading, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Hits among the predicted boxes of one answer, in text order, and the number of duplicates among the others.

    A duplicate is no hit, but overlaps a target that another predicted box has matched. ``ignored``: boxes without a
    target that lie in a crowd region, which are neither hits nor false positives.
    """

    hits: tuple[bool, ...]
    num_duplicates: int
    ignored: tuple[bool, ...] = ()

    @property
    def num_ignored(self) -> int:
        """Number of ignored boxes."""
        return sum(self.ignored)


def find_hits(predicted: Detections, target: Detections, iou_threshold: float = 0.5) -> Hits:
    """Match boxes greedily by confidence: each takes the unmatched target of the largest IoU from the threshold on.

    Boxes of equal confidence are matched in text order. Of the others, those with at least half of their area in a
    crowd region are ignored. Source: COCO evaluation; duplicates as in TIDE, arXiv 2008.08115.

    >>> from virft.types import Box, Detection
    >>> box = Box(x1=0, y1=0, x2=2, y2=2)
    >>> twice = Detections(items=(Detection(box=box, confidence=0.4), Detection(box=box, confidence=0.6)))
    >>> find_hits(twice, Detections(items=(Detection(box=box),)))
    Hits(hits=(False, True), num_duplicates=1, ignored=(False, False))
    """
    if not predicted.items:
        return Hits(hits=(), num_duplicates=0)
    ious, order = _overlaps(predicted, target)
    pairs = match_greedily(ious, order, iou_threshold)
    rows = {row for row, _ in pairs}
    covered = _crowded(predicted, target)
    ignored = tuple(row not in rows and reaches(covered[row], CROWD_FRAC) for row in range(len(ious)))
    # Greedy leaves a row alone only if every target from the threshold on is taken.
    num_duplicates = sum(
        row not in rows and not ignored[row] and reaches(max(ious[row], default=0.0), iou_threshold) for row in order
    )
    return Hits(hits=tuple(row in rows for row in range(len(ious))), num_duplicates=num_duplicates, ignored=ignored)


COCO_IOU_THRESHOLDS = tuple(0.5 + step / 20 for step in range(10))
"""IoU thresholds of COCO's evaluation: 0.5 to 0.95."""


def count_hits(predicted: Detections, target: Detections) -> list[int]:
    """Return the number of hits at each of ``COCO_IOU_THRESHOLDS``, matched as in ``find_hits``."""
    if not predicted.items or not target.items:
        return [0] * len(COCO_IOU_THRESHOLDS)
    ious, order = _overlaps(predicted, target)
    return [len(match_greedily(ious, order, threshold)) for threshold in COCO_IOU_THRESHOLDS]


def _crowded(predicted: Detections, target: Detections) -> list[float]:
    """The fraction of each predicted box that lies in a crowd region of the target."""
    regions = [region.xyxy for region in target.crowd]
    return [covered_frac(item.box.xyxy, regions) for item in predicted.items]


def _overlaps(predicted: Detections, target: Detections) -> tuple[list[list[float]], list[int]]:
    """IoU of each prediction with each target, and the predictions by confidence, ties in text order."""
    ious = iou_matrix([item.box.xyxy for item in predicted.items], [item.box.xyxy for item in target.items])
    return ious, sorted(range(len(ious)), key=lambda index: -predicted.items[index].confidence)


def detection_metrics(pairs: Sequence[tuple[Reading, Detections]], iou_threshold: float = 0.5) -> Measurement:
    """Return micro-averaged metrics: counts over all questions together, also those about absent classes.

    ``precision`` = hits / boxes, ``recall`` = hits / targets, ``f1`` = 2 hits / (boxes + targets); boxes include
    invalid elements and exclude ignored ones (``find_hits``), which are ``num_ignored``. No target and no predicted
    box at all: these three are 1; any other empty denominator: 0. An unreadable answer predicts no box, so it misses
    its targets. ``false_positive_rate``: fraction of the questions about an absent class with a predicted box, valid
    or not. ``boxes_per_question``, ``duplicates_per_question``, ``unreadable_frac``, ``at_most_1_frac`` (of those,
    ``is_at_most_1``), ``no_objects_frac`` (explicit empty answers): over all questions; 0 without questions.
    ``precision_mean``, ``recall_mean``, ``f1_mean``: means over IoU 0.5 to 0.95 in steps of 0.05.

    >>> from virft.types import Box, Detection
    >>> box = Detections(items=(Detection(box=Box(x1=0, y1=0, x2=2, y2=2)),))
    >>> def says(answer): return Reading(text="", well_formed=True, answer=answer)
    >>> measured = detection_metrics([(says(box), box), (says(box), Detections())])
    >>> [measured.values[name] for name in ("precision", "recall", "f1", "false_positive_rate")]
    [0.5, 1.0, 0.6666666666666666, 1.0]
    """
    num_boxes = num_hits = num_invalid = num_clipped = num_duplicates = num_no_objects = num_unreadable = 0
    num_false_alarms = num_ignored = num_at_most_1 = 0
    hits_at = [0] * len(COCO_IOU_THRESHOLDS)
    for reading, target in pairs:
        answer = reading.answer
        if not isinstance(answer, Detections):
            num_unreadable += isinstance(answer, Unreadable)
            num_at_most_1 += is_at_most_1(answer)
            continue
        if answer.num_predicted == 0:
            num_no_objects += 1
            continue
        found = find_hits(answer, target, iou_threshold)
        num_boxes += answer.num_predicted - found.num_ignored
        num_ignored += found.num_ignored
        num_hits += sum(found.hits)
        num_invalid += len(answer.invalid)
        num_clipped += answer.num_clipped
        num_duplicates += found.num_duplicates
        hits_at = [sum(both) for both in zip(hits_at, count_hits(answer, target), strict=True)]
        num_false_alarms += not target.items and answer.num_predicted > found.num_ignored
    num = len(pairs)
    num_targets = sum(len(target.items) for _, target in pairs)
    num_absent = sum(not target.items for _, target in pairs)
    nothing = 1.0 if num_boxes == num_targets == 0 else 0.0
    mean_hits = fmean(hits_at)
    return Measurement(
        values={
            "precision": ratio(num_hits, num_boxes) or nothing,
            "recall": ratio(num_hits, num_targets) or nothing,
            "f1": ratio(2 * num_hits, num_boxes + num_targets) or nothing,
            "precision_mean": ratio(mean_hits, num_boxes) or nothing,
            "recall_mean": ratio(mean_hits, num_targets) or nothing,
            "f1_mean": ratio(2 * mean_hits, num_boxes + num_targets) or nothing,
            "false_positive_rate": ratio(num_false_alarms, num_absent),
            "boxes_per_question": ratio(num_boxes + num_ignored, num),
            "duplicates_per_question": ratio(num_duplicates, num),
            "unreadable_frac": ratio(num_unreadable, num),
            "at_most_1_frac": ratio(num_at_most_1, num),
            "no_objects_frac": ratio(num_no_objects, num),
        },
        counts={
            "num_questions": num,
            "num_absent": num_absent,
            "num_targets": num_targets,
            "num_boxes": num_boxes,
            "num_hits": num_hits,
            "num_invalid": num_invalid,
            "num_clipped": num_clipped,
            "num_ignored": num_ignored,
            "num_duplicates": num_duplicates,
            "num_false_alarms": num_false_alarms,
            "num_no_objects": num_no_objects,
            "num_unreadable": num_unreadable,
            "num_at_most_1": num_at_most_1,
        },
    )


_DUPLICATE_IOU = 0.7
"""A box with a larger IoU than this to an earlier box of the same answer is a duplicate."""


def answer_metrics(answers: Sequence[Detections]) -> dict[str, float]:
    """Return metrics of answers without their targets: mean number of boxes, and fraction of duplicates.

    >>> from virft.types import Box, Detection
    >>> box = Detection(box=Box(x1=0, y1=0, x2=2, y2=2))
    >>> answer_metrics([Detections(items=(box, box)), Detections()])
    {'boxes_per_answer': 1.0, 'duplicate_frac': 0.5}
    """
    found = [[item.box.xyxy for item in answer.items] for answer in answers]
    num_boxes = sum(map(len, found))
    # Compared with earlier boxes only: of two equal boxes, one is a duplicate.
    num_duplicates = sum(
        max(ious[:place], default=0.0) > _DUPLICATE_IOU
        for boxes in found
        for place, ious in enumerate(iou_matrix(boxes, boxes))
    )
    return {"boxes_per_answer": num_boxes / len(found), "duplicate_frac": num_duplicates / max(1, num_boxes)}
