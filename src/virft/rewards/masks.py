"""Rewards for the masks that a segmenter makes of predicted boxes."""

from __future__ import annotations

import math

from virft.geometry.boxes import reaches
from virft.types import SegmentedAnswer

MIN_BOX_IOU = 0.5
"""IoU with the target box from which the mask of a predicted box is rewarded."""


def mask_reward(segmented: SegmentedAnswer) -> float:
    """Return the sum of matched mask IoU / max(N, M), in [0, 1]; a mask counts 0 if the IoU of its boxes is below 0.5.

    N predicted and M target boxes: a missing box and an extra one both lower it. Without the condition an image-blind
    answer can be rewarded: prompted with the whole image, a segmenter often returns the mask of the object in it.

    >>> from virft.types import Box, BoxPair, SegmentedBox
    >>> box = Box(x1=0, y1=0, x2=4, y2=4)
    >>> near, far = (SegmentedBox(BoxPair(box, 0, box_iou), iou=0.9, rle="") for box_iou in (0.75, 0.25))
    >>> [mask_reward(SegmentedAnswer((one,), num=num)) for one, num in ((near, 1), (near, 2), (far, 1))]
    [0.9, 0.45, 0.0]
    """
    return _mean([one.iou for one in segmented.boxes if reaches(one.pair.iou, MIN_BOX_IOU)], segmented.num)


def paper_mask_reward(segmented: SegmentedAnswer) -> float:
    """Return the sum of matched mask IoU / max(N, M), in [0, 1].

    >>> from virft.types import Box, BoxPair, SegmentedBox
    >>> far = SegmentedBox(BoxPair(Box(x1=0, y1=0, x2=4, y2=4), 0, iou=0.25), iou=0.9, rle="")
    >>> paper_mask_reward(SegmentedAnswer((far,), num=1))
    0.9
    """
    return _mean([one.iou for one in segmented.boxes], segmented.num)


def _mean(ious: list[float], num: int) -> float:
    return math.fsum(ious) / num
