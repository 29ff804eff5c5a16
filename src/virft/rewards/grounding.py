"""Reward functions of grounding: overlap of two boxes."""

from __future__ import annotations

from virft.geometry.boxes import generalized_iou
from virft.types import Box, Reading, RewardContext


def giou_reward(reading: Reading, target: Box, context: RewardContext) -> float:
    """Return (GIoU + 1) / 2, in [0, 1]: 1 for the same box, above 0 even if the boxes do not overlap; unreadable: 0.

    Source: Visual-RFT code, scaled.

    >>> reading = Reading(text="", well_formed=True, answer=Box(x1=2, y1=0, x2=3, y2=1))
    >>> giou_reward(reading, Box(x1=0, y1=0, x2=1, y2=1), RewardContext())  # (0 - 1 / 3 + 1) / 2
    0.33333333333333337
    """
    return paper_giou_reward(reading, target, context) / 2.0


def paper_giou_reward(reading: Reading, target: Box, context: RewardContext) -> float:
    """Return GIoU + 1, in [0, 2]; unreadable: 0. Source: Visual-RFT code (the paper has plain IoU).

    >>> reading = Reading(text="", well_formed=True, answer=Box(x1=0, y1=0, x2=1, y2=1))
    >>> paper_giou_reward(reading, Box(x1=0, y1=0, x2=1, y2=1), RewardContext())
    2.0
    """
    if not isinstance(reading.answer, Box):
        return 0.0
    return generalized_iou(reading.answer.xyxy, target.xyxy) + 1.0
