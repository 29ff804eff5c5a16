"""Precision, recall and F1 of predicted boxes over the confidence threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxCurves:
    """Metrics of the boxes whose confidence is at least a threshold; one entry for each distinct confidence."""

    thresholds: tuple[float, ...]
    """Confidence thresholds, decreasing."""
    precision: tuple[float, ...]
    """Hits / predicted boxes."""
    recall: tuple[float, ...]
    """Hits / targets; never decreasing."""
    f1: tuple[float, ...]
    """2 hits / (predicted boxes + targets)."""

    @property
    def best(self) -> int:
        """Index of the largest F1; of equal ones, that of the highest threshold."""
        return max(range(len(self.f1)), key=self.f1.__getitem__)


def box_curves(
    confidences: Sequence[float], hits: Sequence[bool], *, num_targets: int, num_invalid: int = 0
) -> BoxCurves | None:
    """Return the curves of all predicted boxes of a dataset; None without targets or without predicted boxes.

    ``num_invalid``: elements of the answers that are no boxes; they count as false positives at every threshold. At the
    lowest threshold the values are those of ``detection_metrics``, because boxes are matched in the order of their
    confidence.

    >>> found = box_curves([0.9, 0.5, 0.5], [True, False, True], num_targets=4)
    >>> found.thresholds, found.precision, found.recall
    ((0.9, 0.5), (1.0, 0.6666666666666666), (0.25, 0.5))
    """
    if not num_targets or not confidences:
        return None
    ranked = sorted(zip(confidences, hits, strict=True), key=lambda one: -one[0])
    thresholds, precision, recall, f1 = [], [], [], []
    num_hits = 0
    for number, (confidence, is_hit) in enumerate(ranked, start=1):
        num_hits += is_hit
        if number < len(ranked) and ranked[number][0] == confidence:
            continue  # equal confidences pass a threshold together
        num_boxes = number + num_invalid
        thresholds.append(confidence)
        precision.append(num_hits / num_boxes)
        recall.append(num_hits / num_targets)
        f1.append(2 * num_hits / (num_boxes + num_targets))
    return BoxCurves(thresholds=tuple(thresholds), precision=tuple(precision), recall=tuple(recall), f1=tuple(f1))
