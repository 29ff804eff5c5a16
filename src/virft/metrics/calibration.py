"""Calibration of confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virft.metrics.detection import find_hits
from virft.metrics.measurement import Measurement, ratio
from virft.types import Detections, Reading


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """Predicted boxes with a confidence in ``[low, high)``; the last bin includes 1."""

    low: float
    high: float
    num: int
    mean_confidence: float
    hit_frac: float


def calibration_bins(confidences: Sequence[float], hits: Sequence[bool], num_bins: int = 10) -> list[CalibrationBin]:
    """Return bins of equal width over [0, 1]; an empty bin has 0 for both means.

    >>> calibration_bins([0.9, 0.7], [True, False], num_bins=2)[1]
    CalibrationBin(low=0.5, high=1.0, num=2, mean_confidence=0.8, hit_frac=0.5)
    """
    members: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
    for confidence, hit in zip(confidences, hits, strict=True):
        members[min(int(confidence * num_bins), num_bins - 1)].append((confidence, hit))
    return [
        CalibrationBin(
            low=index / num_bins,
            high=(index + 1) / num_bins,
            num=len(held),
            mean_confidence=ratio(sum(confidence for confidence, _ in held), len(held)),
            hit_frac=ratio(sum(hit for _, hit in held), len(held)),
        )
        for index, held in enumerate(members)
    ]


def calibration_error(confidences: Sequence[float], hits: Sequence[bool], num_bins: int = 10) -> float:
    """Return the expected calibration error, in [0, 1]: mean of |fraction of hits - mean confidence| over predictions.

    No predictions: 0. Source: Guo et al. 2017, arXiv 1706.04599.

    >>> round(calibration_error([0.95, 0.95, 0.15], [True, False, False]), 3)  # (2 * 0.45 + 0.15) / 3
    0.35
    """
    bins = calibration_bins(confidences, hits, num_bins)
    return ratio(sum(held.num * abs(held.hit_frac - held.mean_confidence) for held in bins), len(confidences))


def confidences_of(
    pairs: Sequence[tuple[Reading, Detections]], iou_threshold: float = 0.5
) -> tuple[list[float], list[bool]]:
    """Return the confidence of every valid box that is not ignored, and whether it is a hit (``find_hits``).

    >>> from virft.types import Box, Detection
    >>> box = Detections(items=(Detection(box=Box(x1=0, y1=0, x2=2, y2=2), confidence=0.8),))
    >>> confidences_of([(Reading(text="", well_formed=True, answer=box), box)])
    ([0.8], [True])
    """
    confidences: list[float] = []
    hits: list[bool] = []
    for reading, target in pairs:
        if isinstance(reading.answer, Detections):
            found = find_hits(reading.answer, target, iou_threshold)
            for item, is_hit, is_ignored in zip(reading.answer.items, found.hits, found.ignored, strict=True):
                if not is_ignored:
                    confidences.append(item.confidence)
                    hits.append(is_hit)
    return confidences, hits


def calibration_metrics(pairs: Sequence[tuple[Reading, Detections]], iou_threshold: float = 0.5) -> Measurement:
    """Return ``calibration_error`` over 10 bins and ``mean_confidence`` of all valid boxes; 0 if there are none.

    >>> from virft.types import Box, Detection
    >>> box = Detections(items=(Detection(box=Box(x1=0, y1=0, x2=2, y2=2), confidence=0.75),))
    >>> calibration_metrics([(Reading(text="", well_formed=True, answer=box), box)]).values
    {'calibration_error': 0.25, 'mean_confidence': 0.75}
    """
    confidences, hits = confidences_of(pairs, iou_threshold)
    return Measurement(
        values={
            "calibration_error": calibration_error(confidences, hits),
            "mean_confidence": ratio(sum(confidences), len(confidences)),
        },
        counts={"num_confidences": len(confidences)},
    )
