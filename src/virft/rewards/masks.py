"""Rewards for the mask that a segmenter makes of a predicted box."""

from __future__ import annotations

from virft.geometry.boxes import intersection_over_union, reaches
from virft.types import Box, Reading, SegmentedBox

MIN_BOX_IOU = 0.5
"""IoU with the target box from which the mask of a predicted box is rewarded."""


def mask_reward(reading: Reading, target: Box, segmented: SegmentedBox) -> float:
    """Return the IoU of the predicted and the target mask, in [0, 1]; 0 if the box IoU is below 0.5.

    Without that condition an image-blind answer can be rewarded: prompted with the whole image, a segmenter often
    returns the mask of the object in it. Unreadable: 0.

    >>> reading = Reading(text="", well_formed=True, answer=Box(x1=0, y1=0, x2=4, y2=4))
    >>> mask_reward(reading, Box(x1=0, y1=0, x2=4, y2=3), SegmentedBox(iou=0.9, rle=""))  # box IoU 0.75
    0.9
    >>> mask_reward(reading, Box(x1=0, y1=0, x2=4, y2=1), SegmentedBox(iou=0.9, rle=""))  # box IoU 0.25
    0.0
    """
    if not isinstance(reading.answer, Box):
        return 0.0
    is_hit = reaches(intersection_over_union(reading.answer.xyxy, target.xyxy), MIN_BOX_IOU)
    return segmented.iou if is_hit else 0.0


def paper_mask_reward(reading: Reading, target: Box, segmented: SegmentedBox) -> float:
    """Return the IoU of the predicted and the target mask, in [0, 1]; unreadable: 0.

    >>> reading = Reading(text="", well_formed=True, answer=Box(x1=0, y1=0, x2=4, y2=4))
    >>> paper_mask_reward(reading, Box(x1=0, y1=0, x2=4, y2=1), SegmentedBox(iou=0.9, rle=""))
    0.9
    """
    return segmented.iou if isinstance(reading.answer, Box) else 0.0
