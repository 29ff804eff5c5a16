"""Regions of an image that are enlarged for a zoom."""

from __future__ import annotations

import math
from collections.abc import Sequence

from virft.types import Box, ImageSize

MAX_ASPECT = 4
"""Largest aspect ratio of an enlarged region, unless the image is too narrow: thinner boxes are widened."""


def zoom_region(box: Box, image: ImageSize) -> Box:
    """Return the region that is cropped for a box: whole pixels inside the image that contain the box.

    A side that is shorter than 1 / ``MAX_ASPECT`` of the other is widened on both sides of its centre, as far as the
    image allows.

    >>> zoom_region(Box(x1=10.4, y1=3.0, x2=50.2, y2=5.5), ImageSize(64, 8)).xyxy
    (10, 0, 51, 8)
    """
    (x1, x2), (y1, y2) = _whole(box.x1, box.x2, image.width), _whole(box.y1, box.y2, image.height)
    width, height = x2 - x1, y2 - y1
    x1, x2 = _widened(x1, x2, -(-height // MAX_ASPECT), image.width)
    y1, y2 = _widened(y1, y2, -(-width // MAX_ASPECT), image.height)
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


def region_around(boxes: Sequence[Box], image: ImageSize, numbers: Sequence[float]) -> Box | None:
    """Return a square around all boxes, at a random place and of a random size: the region of a supervised zoom call.

    ``numbers``: three in [0, 1), for the size (1.5 to 3 times the longest side of what the boxes cover, at least an
    eighth of the image), x and y. None without boxes, and if an enlargement would be below 2: the square has more than
    half of a side of the image.

    >>> box = Box(x1=40, y1=40, x2=44, y2=48)
    >>> region_around([box], ImageSize(200, 100), [0.0, 0.0, 0.5]).xyxy
    (19.0, 31.5, 44.0, 56.5)
    """
    if not boxes:
        return None
    x1, y1 = min(one.x1 for one in boxes), min(one.y1 for one in boxes)
    x2, y2 = max(one.x2 for one in boxes), max(one.y2 for one in boxes)
    side = max((1.5 + 1.5 * numbers[0]) * max(x2 - x1, y2 - y1), max(image) / 8)
    if side > min(image) / 2:
        return None
    left, top = (
        _between(max(0.0, high - side), min(low, limit - side), number)
        for low, high, limit, number in ((x1, x2, image.width, numbers[1]), (y1, y2, image.height, numbers[2]))
    )
    return Box(x1=left, y1=top, x2=left + side, y2=top + side)


def zoomed_size(region: Box, resized: ImageSize) -> ImageSize:
    """Return the size to which a region is scaled: the largest with its aspect ratio that fits into ``resized``, the
    size of the whole image after the image processor. So the crop costs at most about as many image tokens.

    >>> zoomed_size(Box(x1=10, y1=0, x2=30, y2=10), ImageSize(448, 336))
    ImageSize(width=448, height=224)
    """
    width, height = region.x2 - region.x1, region.y2 - region.y1
    scale = min(resized.width / width, resized.height / height)
    return ImageSize(max(1, round(width * scale)), max(1, round(height * scale)))


def _between(low: float, high: float, fraction: float) -> float:
    return low + fraction * (high - low)


def _whole(low: float, high: float, limit: int) -> tuple[int, int]:
    """The pixels that an interval touches, at least one, inside 0..limit."""
    first = min(max(0, math.floor(low)), limit - 1)
    return first, min(max(first + 1, math.ceil(high)), limit)


def _widened(low: int, high: int, least: int, limit: int) -> tuple[int, int]:
    """The interval, of at least ``least`` pixels around the same centre, moved inside 0..limit."""
    missing = min(least, limit) - (high - low)
    if missing <= 0:
        return low, high
    first = min(max(0, low - missing // 2), limit - (high - low) - missing)
    return first, first + high - low + missing
