"""How near a mask per question comes to its target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from virft.geometry.masks import Mask
from virft.metrics.measurement import Measurement, share


class MaskOverlap(NamedTuple):
    """Pixels that answer and target share, and pixels that one of them has."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """In [0, 1]; where both are empty, 1."""
        return self.intersection / self.union if self.union else 1.0


def mask_overlap(answer: Mask, target: Mask, ignored: Mask | None = None) -> MaskOverlap:
    """Of two masks of one size, without the pixels of ``ignored``."""
    if ignored is not None:
        answer, target = answer & ~ignored, target & ~ignored
    return MaskOverlap(intersection=int((answer & target).sum()), union=int((answer | target).sum()))


def mask_metrics(overlaps: Sequence[MaskOverlap]) -> Measurement:
    """``giou``: mean IoU over questions; ``ciou``: sum of intersections / sum of unions. No questions: 0.

    An empty answer to an empty target counts 1 in ``giou`` and nothing in ``ciou``. gIoU is not the generalised IoU of
    boxes. Source: LISA (arXiv 2308.00692).

    >>> mask_metrics([MaskOverlap(1, 2), MaskOverlap(90, 100), MaskOverlap(0, 0)]).values  # (0.5 + 0.9 + 1) / 3
    {'giou': 0.7999999999999999, 'ciou': 0.8921568627450981}
    """
    iou = math.fsum(one.iou for one in overlaps)
    intersection, union = (sum(one[part] for one in overlaps) for part in (0, 1))
    return Measurement(
        values={"giou": share(iou, len(overlaps)), "ciou": share(intersection, union)},
        counts={"num_with_mask": len(overlaps)},
    )
