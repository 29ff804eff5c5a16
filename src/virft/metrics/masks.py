"""Overlap of one predicted mask per question with its target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from virft.geometry.masks import Mask
from virft.metrics.measurement import Measurement, ratio


class MaskOverlap(NamedTuple):
    """Number of pixels in both of two masks, and in at least one of them."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """IoU in [0, 1]; 1 if both masks are empty."""
        return self.intersection / self.union if self.union else 1.0


def mask_overlap(answer: Mask, target: Mask, ignored: Mask | None = None) -> MaskOverlap:
    """Return the overlap of two masks of shape [H, W] outside of ``ignored``, a mask of the same shape."""
    if ignored is not None:
        answer, target = answer & ~ignored, target & ~ignored
    return MaskOverlap(intersection=int((answer & target).sum()), union=int((answer | target).sum()))


def mask_metrics(overlaps: Sequence[MaskOverlap]) -> Measurement:
    """Return ``giou``, mean IoU over questions, and ``ciou``, sum of intersections / sum of unions. No questions: 0.

    An empty answer to an empty target counts as 1 in ``giou`` and adds nothing in ``ciou``. gIoU is not the generalised
    IoU of boxes. Source: LISA (arXiv 2308.00692).

    >>> mask_metrics([MaskOverlap(1, 2), MaskOverlap(90, 100), MaskOverlap(0, 0)]).values  # (0.5 + 0.9 + 1) / 3
    {'giou': 0.7999999999999999, 'ciou': 0.8921568627450981}
    """
    iou = math.fsum(one.iou for one in overlaps)
    intersection, union = (sum(one[part] for one in overlaps) for part in (0, 1))
    return Measurement(
        values={"giou": ratio(iou, len(overlaps)), "ciou": ratio(intersection, union)},
        counts={"num_with_mask": len(overlaps)},
    )
