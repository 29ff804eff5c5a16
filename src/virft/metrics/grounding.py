"""Overlap of one predicted box per question with its target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from virft.geometry.boxes import intersection_over_union, reaches, size_of
from virft.metrics.measurement import Measurement, ratio
from virft.text.answers import is_at_most_1
from virft.types import Box, Reading, Unreadable

ACCURACY_IOU_THRESHOLDS = (0.5, 0.75, 0.9)


def grounding_metrics(pairs: Sequence[tuple[Reading, Box]]) -> Measurement:
    """Return means over all questions; an unreadable answer has IoU 0. No questions: 0.

    ``box_miou``: mean IoU. ``accuracy_at_50`` (75, 90): fraction with IoU of at least 0.5 (0.75, 0.9).
    ``unreadable_frac``, and of those ``at_most_1_frac`` (``is_at_most_1``). Table ``box_miou_by_size``: ``box_miou``
    for small, medium and large targets (areas of COCO: below 32², up to 96², above). Source: referring-expression
    evaluation, as in RefCOCO.

    >>> def says(x2): return Reading(text="", well_formed=True, answer=Box(x1=0, y1=0, x2=x2, y2=1))
    >>> grounding_metrics([(says(6), Box(x1=0, y1=0, x2=10, y2=1)), (says(8), Box(x1=0, y1=0, x2=10, y2=1))]).values
    {'box_miou': 0.7, 'accuracy_at_50': 1.0, 'accuracy_at_75': 0.5, 'accuracy_at_90': 0.0, 'unreadable_frac': 0.0, \
'at_most_1_frac': 0.0}
    """
    num = len(pairs)
    ious = [
        intersection_over_union(reading.answer.xyxy, target.xyxy) if isinstance(reading.answer, Box) else 0.0
        for reading, target in pairs
    ]
    num_unreadable = sum(isinstance(reading.answer, Unreadable) for reading, _ in pairs)
    values = {"box_miou": ratio(math.fsum(ious), num)}
    for threshold in ACCURACY_IOU_THRESHOLDS:
        values[f"accuracy_at_{threshold * 100:.0f}"] = ratio(sum(reaches(iou, threshold) for iou in ious), num)
    values["unreadable_frac"] = ratio(num_unreadable, num)
    num_at_most_1 = sum(is_at_most_1(reading.answer) for reading, _ in pairs)
    values["at_most_1_frac"] = ratio(num_at_most_1, num)
    by_size: dict[str, list[float]] = {}
    for (_, target), iou in zip(pairs, ious, strict=True):
        by_size.setdefault(size_of(target), []).append(iou)
    return Measurement(
        values=values,
        counts={"num_questions": num, "num_unreadable": num_unreadable, "num_at_most_1": num_at_most_1},
        tables={"box_miou_by_size": {size: math.fsum(found) / len(found) for size, found in sorted(by_size.items())}},
    )
