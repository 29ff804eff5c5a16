"""How right one answer is."""

from __future__ import annotations

from virft.geometry.boxes import intersection_over_union
from virft.metrics.detection import find_hits
from virft.text.labels import is_same_label
from virft.types import Box, Detections, Label, Reading, Target


def question_score(reading: Reading, target: Target) -> float:
    """In [0, 1]: F1 at IoU 0.5 of a detection, the IoU of grounding, 0 or 1 for a class name.

    "No objects" where there is nothing: 1. Unreadable, or an answer of another kind: 0, also where there is nothing.

    >>> question_score(Reading(text="", well_formed=True, answer=Detections()), Detections())
    1.0
    """
    answer = reading.answer
    if isinstance(target, Label):
        return float(isinstance(answer, Label) and is_same_label(answer.text, target))
    if isinstance(target, Box):
        return intersection_over_union(answer.xyxy, target.xyxy) if isinstance(answer, Box) else 0.0
    if not isinstance(answer, Detections):
        return 0.0
    num_boxes = answer.num_predicted + len(target.items)
    return 2 * sum(find_hits(answer, target).hits) / num_boxes if num_boxes else 1.0
