"""How well boxes are found: precision, recall and F1 at one IoU, and the habits that AP hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from virft.geometry.boxes import iou_matrix, match_greedily
from virft.metrics.measurement import Measurement, share
from virft.types import Detections, Reading, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Which predictions of one answer are hits, in text order, and how many of the rest are duplicates.

    A duplicate is no hit, but overlaps a target that another prediction has taken.
    """

    hits: tuple[bool, ...]
    num_duplicates: int


def find_hits(predicted: Detections, target: Detections, iou_threshold: float = 0.5) -> Hits:
    """Greedy by confidence, ties in text order; each takes the free target it overlaps most, above the threshold.

    Source: COCO evaluation (which takes an IoU equal to the threshold too); duplicates as in TIDE,
    arXiv 2008.08115.

    >>> from virft.types import Box, Detection
    >>> box = Box(x1=0, y1=0, x2=2, y2=2)
    >>> twice = Detections(items=(Detection(box=box, confidence=0.4), Detection(box=box, confidence=0.6)))
    >>> find_hits(twice, Detections(items=(Detection(box=box),)))
    Hits(hits=(False, True), num_duplicates=1)
    """
    if not predicted.items:
        return Hits(hits=(), num_duplicates=0)
    ious, order = _overlaps(predicted, target)
    pairs = match_greedily(ious, order, iou_threshold)
    rows = {row for row, _ in pairs}
    # Greedy leaves a row alone only if every target above the threshold is taken.
    num_duplicates = sum(row not in rows and max(ious[row], default=0.0) > iou_threshold for row in order)
    return Hits(hits=tuple(row in rows for row in range(len(ious))), num_duplicates=num_duplicates)


COCO_IOU_THRESHOLDS = tuple(0.5 + step / 20 for step in range(10))
"""0.5 to 0.95, as COCO."""


def count_hits(predicted: Detections, target: Detections) -> list[int]:
    """Hits at each of ``COCO_IOU_THRESHOLDS``, matched as in ``find_hits``."""
    if not predicted.items or not target.items:
        return [0] * len(COCO_IOU_THRESHOLDS)
    ious, order = _overlaps(predicted, target)
    return [len(match_greedily(ious, order, threshold)) for threshold in COCO_IOU_THRESHOLDS]


def _overlaps(predicted: Detections, target: Detections) -> tuple[list[list[float]], list[int]]:
    """IoU of each prediction with each target, and the predictions by confidence, ties in text order."""
    ious = iou_matrix([item.box.xyxy for item in predicted.items], [item.box.xyxy for item in target.items])
    return ious, sorted(range(len(ious)), key=lambda index: -predicted.items[index].confidence)


def detection_metrics(pairs: Sequence[tuple[Reading, Detections]], iou_threshold: float = 0.5) -> Measurement:
    """Counts over all questions together (micro), questions about absent classes included.

    ``precision`` = hits / boxes, ``recall`` = hits / targets, ``f1`` = 2 hits / (boxes + targets);
    boxes include invalid elements. Nothing to find and nothing predicted at all: these three are 1;
    any other empty denominator: 0. An unreadable answer predicts nothing and misses its targets.
    ``false_positive_rate``: absent-class questions answered with a box, valid or not, of all
    absent-class questions. ``boxes_per_question``, ``duplicates_per_question``, ``unreadable_frac``,
    ``no_objects_frac`` (explicit empty answers): of all questions; 0 where there are none.
    ``precision_mean``, ``recall_mean``, ``f1_mean``: means over IoU 0.5 to 0.95 in steps of 0.05.

    >>> from virft.types import Box, Detection
    >>> box = Detections(items=(Detection(box=Box(x1=0, y1=0, x2=2, y2=2)),))
    >>> def says(answer): return Reading(text="", well_formed=True, answer=answer)
    >>> measured = detection_metrics([(says(box), box), (says(box), Detections())])
    >>> [measured.values[name] for name in ("precision", "recall", "f1", "false_positive_rate")]
    [0.5, 1.0, 0.6666666666666666, 1.0]
    """
    num_boxes = num_hits = num_invalid = num_clipped = num_duplicates = num_no_objects = num_unreadable = 0
    num_false_alarms = 0
    hits_at = [0] * len(COCO_IOU_THRESHOLDS)
    for reading, target in pairs:
        answer = reading.answer
        if not isinstance(answer, Detections):
            num_unreadable += isinstance(answer, Unreadable)
            continue
        if answer.num_predicted == 0:
            num_no_objects += 1
            continue
        found = find_hits(answer, target, iou_threshold)
        num_boxes += answer.num_predicted
        num_hits += sum(found.hits)
        num_invalid += len(answer.invalid)
        num_clipped += answer.num_clipped
        num_duplicates += found.num_duplicates
        hits_at = [sum(both) for both in zip(hits_at, count_hits(answer, target), strict=True)]
        num_false_alarms += not target.items
    num = len(pairs)
    num_targets = sum(len(target.items) for _, target in pairs)
    num_absent = sum(not target.items for _, target in pairs)
    nothing = 1.0 if num_boxes == num_targets == 0 else 0.0
    mean_hits = fmean(hits_at)
    return Measurement(
        values={
            "precision": share(num_hits, num_boxes) or nothing,
            "recall": share(num_hits, num_targets) or nothing,
            "f1": share(2 * num_hits, num_boxes + num_targets) or nothing,
            "precision_mean": share(mean_hits, num_boxes) or nothing,
            "recall_mean": share(mean_hits, num_targets) or nothing,
            "f1_mean": share(2 * mean_hits, num_boxes + num_targets) or nothing,
            "false_positive_rate": share(num_false_alarms, num_absent),
            "boxes_per_question": share(num_boxes, num),
            "duplicates_per_question": share(num_duplicates, num),
            "unreadable_frac": share(num_unreadable, num),
            "no_objects_frac": share(num_no_objects, num),
        },
        counts={
            "num_questions": num,
            "num_absent": num_absent,
            "num_targets": num_targets,
            "num_boxes": num_boxes,
            "num_hits": num_hits,
            "num_invalid": num_invalid,
            "num_clipped": num_clipped,
            "num_duplicates": num_duplicates,
            "num_false_alarms": num_false_alarms,
            "num_no_objects": num_no_objects,
            "num_unreadable": num_unreadable,
        },
    )


_DUPLICATE_IOU = 0.7
"""A box that overlaps an earlier one of its answer by more than this IoU repeats it."""


def answer_metrics(answers: Sequence[Detections]) -> dict[str, float]:
    """Return metrics of answers without their targets: mean number of boxes, and fraction that repeat one before.

    >>> from virft.types import Box, Detection
    >>> box = Detection(box=Box(x1=0, y1=0, x2=2, y2=2))
    >>> answer_metrics([Detections(items=(box, box)), Detections()])
    {'boxes_per_answer': 1.0, 'duplicate_frac': 0.5}
    """
    found = [[item.box.xyxy for item in answer.items] for answer in answers]
    num_boxes = sum(map(len, found))
    repeated = sum(
        max(ious[:place], default=0.0) > _DUPLICATE_IOU
        for boxes in found
        for place, ious in enumerate(iou_matrix(boxes, boxes))
    )
    return {"boxes_per_answer": num_boxes / len(found), "duplicate_frac": repeated / max(1, num_boxes)}
