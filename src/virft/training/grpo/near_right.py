"""Near-right answers: boxes of a target moved to a stated IoU, one box missing, one box twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from virft.types import Box, Detection, ImageSize

IOUS = (0.95, 0.8, 0.6)
"""IoU of every box with its target in the first near-right answers."""
_NUMBERS_PER_BOX = 5


def near_right_boxes(
    boxes: Sequence[Detection], size: ImageSize, uniforms: Callable[[int], NDArray[np.float64]]
) -> list[list[Detection]]:
    """Boxes of each near-right answer: all at IoU 0.95, at 0.8, at 0.6, then with one missing, then with one twice.

    ``boxes``: those of the target, in pixels of an image of ``size``; their labels do not change. ``uniforms``: number
    of random numbers in [0, 1) -> array of that shape. Empty for a target without boxes.
    """
    if not boxes:
        return []
    numbers = uniforms(len(IOUS) * len(boxes) * _NUMBERS_PER_BOX + 2)
    rungs = [
        [replace(one, box=box_at_iou(one.box, iou, size, row)) for one, row in zip(boxes, rows, strict=True)]
        for iou, rows in zip(IOUS, numbers[2:].reshape(len(IOUS), len(boxes), _NUMBERS_PER_BOX), strict=True)
    ]
    missing, twice = (int(number * len(boxes)) for number in numbers[:2])
    return [*rungs, [one for i, one in enumerate(boxes) if i != missing], [*boxes, boxes[twice]]]


def box_at_iou(box: Box, iou: float, size: ImageSize, numbers: Sequence[float] | NDArray[np.float64]) -> Box:
    """A box inside the image with exactly this IoU with ``box``, chosen by 5 numbers in [0, 1).

    The box is shifted in a random direction. If the image has no room for that, a smaller box inside it is returned.

    >>> moved = box_at_iou(Box(x1=10, y1=10, x2=40, y2=30), 0.6, ImageSize(100, 100), [0.5, 0.9, 0.1, 0.5, 0.5])
    >>> [round(value, 2) for value in moved.xyxy]
    [14.02, 7.32, 44.02, 27.32]
    """
    split, right, down, across, along = (float(number) for number in numbers)
    width, height = box.x2 - box.x1, box.y2 - box.y1
    # Of two boxes of area A that overlap in o A, the IoU is o / (2 - o).
    overlap = 2 * iou / (1 + iou)
    dx = _shift(box.x1, box.x2, width * (1 - overlap**split), float(size.width), right < 0.5)
    dy = _shift(box.y1, box.y2, height * (1 - overlap ** (1 - split)), float(size.height), down < 0.5)
    if dx is not None and dy is not None:
        return Box(x1=box.x1 + dx, y1=box.y1 + dy, x2=box.x2 + dx, y2=box.y2 + dy)
    # Of a box inside another one, the IoU is the ratio of their areas.
    inner_width, inner_height = width * iou**split, height * iou ** (1 - split)
    x1, y1 = box.x1 + across * (width - inner_width), box.y1 + along * (height - inner_height)
    return Box(x1=x1, y1=y1, x2=x1 + inner_width, y2=y1 + inner_height)


def _shift(low: float, high: float, distance: float, side: float, backwards: bool) -> float | None:
    """A shift by ``distance`` in the given direction, else in the other one; None if neither stays in [0, side]."""
    for shift in (-distance, distance) if backwards else (distance, -distance):
        if low + shift >= 0 and high + shift <= side:
            return shift
    return None
