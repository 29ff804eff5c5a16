"""Regions of an image that are enlarged for a zoom."""

from __future__ import annotations

import math

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


def zoomed_size(region: Box, resized: ImageSize) -> ImageSize:
    """Return the size to which a region is scaled: the largest with its aspect ratio that fits into ``resized``, the
    size of the whole image after the image processor. So the crop costs at most about as many image tokens.

    >>> zoomed_size(Box(x1=10, y1=0, x2=30, y2=10), ImageSize(448, 336))
    ImageSize(width=448, height=224)
    """
    width, height = region.x2 - region.x1, region.y2 - region.y1
    scale = min(resized.width / width, resized.height / height)
    return ImageSize(max(1, round(width * scale)), max(1, round(height * scale)))


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
