"""Checked values of JSON records: texts, lists, numbers, and shapes in pixels of an image.

Each function that takes ``where`` (``file:line``) begins its messages with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from virft.errors import DataError
from virft.geometry.boxes import XYXY, box_of, clip_xyxy
from virft.types import Box, ImageSize, Polygon

_HUGE = 2**1023
BORDER_PX = 1.0
"""Number of pixels that a box may reach outside its image without being reported, as rounding errors do."""
CLIPPED_FRAC = 0.1
"""Fraction of the image's side that a box may reach outside and is clipped. Beyond this limit it is invalid."""


def check_keys(
    record: Any, required: Set[str], optional: Set[str] = frozenset(), *, where: str, part: str = ""
) -> None:
    """Raise ``DataError`` unless ``record`` is an object with all required keys and no unknown one."""
    if isinstance(record, dict) and record.keys() == required:
        return
    where = f"{where}: {part}" if part else where
    if not isinstance(record, dict):
        raise DataError(f"{where}: {record!r:.80} is not an object; expected the keys {', '.join(sorted(required))}")
    if missing := sorted(required - record.keys()):
        raise DataError(f"{where}: {missing[0]} is missing; expected the keys {', '.join(sorted(required))}")
    if unknown := sorted(record.keys() - required - optional):
        known = ", ".join(sorted(required | optional))
        raise DataError(f"{where}: {unknown[0]} is not a known key; expected {known}")


def text_of(value: Any, name: str, *, where: str) -> str:
    """Return a text that is not blank; ``DataError`` for any other value."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {value!r}; expected text that is not empty")
    return value


def bool_of(value: Any, name: str, *, where: str) -> bool:
    """Return true or false; ``DataError`` for any other value."""
    if not isinstance(value, bool):
        raise DataError(f"{where}: {name} is {value!r}; expected true or false")
    return value


def list_of(value: Any, name: str, *, where: str) -> list[Any]:
    """Return a list; ``DataError`` for any other value."""
    if not isinstance(value, list):
        raise DataError(f"{where}: {name} is {value!r}; expected a list")
    return value


def is_image_side(value: Any) -> bool:
    """Return whether a value is a width or height that image formats can store: an integer from 1 to 2^31 - 1."""
    return type(value) is int and 0 < value < 2**31


def is_json_number(value: Any) -> bool:
    """Return whether a value is a number that fits a float.

    JSON integers may have any number of digits, and ``true`` is not a number.
    """
    return type(value) is float or (type(value) is int and abs(value) < _HUGE)


def parse_box(value: Any, size: ImageSize, *, where: str) -> Box:
    """Return the box of ``[x1, y1, x2, y2]``, clipped to its image; ``DataError`` for any other value."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_json_number, value)):
        raise DataError(f"{where}: box {value!r} is not four numbers; expected [x1, y1, x2, y2]")
    x1, y1, x2, y2 = map(float, value)
    if fault := box_fault((x1, y1, x2, y2), size):
        raise DataError(f"{where}: {fault}")
    return box_of(clip_xyxy((x1, y1, x2, y2), size.width, size.height))


def parse_polygons(value: Any, size: ImageSize, *, where: str) -> tuple[Polygon, ...]:
    """Return the outlines of a list of lists of numbers; ``DataError`` if one is no outline on the image."""
    polygons = polygons_of(value, where=where)
    if fault := polygons_fault(polygons, size):
        raise DataError(f"{where}: {fault}")
    return polygons


def box_fault(xyxy: XYXY, size: ImageSize) -> str | None:
    """Return the reason why four numbers are no box of an image of this size; None if they are one.

    A box may reach outside its image by ``CLIPPED_FRAC`` of the side, if more than half of its area is inside:
    ``clip_xyxy`` then clips it. Numbers that are all from 0 to 1 are no pixels but fractions of the sides, as corners
    or as [x, y, width, height].

    >>> box_fault((40, 10, 30, 50), ImageSize(64, 64))
    'box [40, 10, 30, 50] has x2 <= x1; expected x1 < x2 in pixels of the original image'
    >>> box_fault((40, 10, 70, 50), ImageSize(64, 64))  # 6 of 64 columns, and 24 of the box's 30 are inside
    """
    x1, y1, x2, y2 = xyxy
    shown = f"box [{', '.join(f'{v:g}' for v in xyxy)}]"
    if not all(map(math.isfinite, xyxy)):
        return f"{shown} has a number that is not finite; expected pixels of the original image"
    for low, high, axis in ((x1, x2, "x"), (y1, y2, "y")):
        if high <= low:
            return f"{shown} has {axis}2 <= {axis}1; expected {axis}1 < {axis}2 in pixels of the original image"
    # Fractions read as [x, y, width, height] end at 2 at most.
    if max(x2, y2) <= 2.0 < max(size) and are_fractions((x1 / 2, y1 / 2, x2 - x1, y2 - y1)):
        return f"{shown} is one pixel or less at the top left, {FRACTIONS}; expected pixels of the original image"
    if min(x2, y2) <= 0 or x1 >= size.width or y1 >= size.height:
        return f"{shown} lies outside its image of [0, 0, {size.width}, {size.height}]"
    if not is_inside(xyxy, size) and not _can_be_clipped(xyxy, size):
        return f"{shown} reaches outside its image; expected it inside [0, 0, {size.width}, {size.height}]"
    return None


def is_inside(xyxy: XYXY, size: ImageSize, *, border: tuple[float, float] = (BORDER_PX, BORDER_PX)) -> bool:
    """Return True if a box reaches outside its image by at most ``border``, in pixels horizontally and vertically."""
    x1, y1, x2, y2 = xyxy
    across, down = border
    return x1 >= -across and y1 >= -down and x2 <= size.width + across and y2 <= size.height + down


def _can_be_clipped(xyxy: XYXY, size: ImageSize) -> bool:
    if not is_inside(xyxy, size, border=(CLIPPED_FRAC * size.width, CLIPPED_FRAC * size.height)):
        return False
    x1, y1, x2, y2 = xyxy
    a, b, c, d = clip_xyxy(xyxy, size.width, size.height)
    return (c - a) * (d - b) > 0.5 * (x2 - x1) * (y2 - y1)


FRACTIONS = "so its numbers are fractions of width and height"


def are_fractions(numbers: Sequence[float]) -> bool:
    """Return True if all numbers of a box are from 0 to 1: fractions of the image's sides instead of pixels.

    >>> are_fractions((0.1, 0.2, 0.3, 1)), are_fractions((0, 0, 1, 2))
    (True, False)
    """
    return all(0.0 <= number <= 1.0 for number in numbers)


def polygons_fault(polygons: Sequence[Polygon], size: ImageSize) -> str | None:
    """Return the reason why flat corners are no outlines on an image of this size; None if they are.

    Corners may lie outside the image by up to its width or height.

    >>> polygons_fault([(1, 2, 3)], ImageSize(64, 64))
    'polygon [1, 2, 3] is not [x1, y1, x2, y2, ..] of at least three points'
    """
    for points in polygons:
        shown = f"polygon [{', '.join(f'{value:g}' for value in points):.60}]"
        if len(points) < 6 or len(points) % 2:
            return f"{shown} is not [x1, y1, x2, y2, ..] of at least three points"
        if not all(map(math.isfinite, points)):
            return f"{shown} has a number that is not finite; expected pixels of the original image"
        for values, side in ((points[::2], size.width), (points[1::2], size.height)):
            # The time to fill an outline grows with its length.
            if min(values) < -side or max(values) > 2 * side:
                return f"{shown} reaches far outside its image of [0, 0, {size.width}, {size.height}]"
    return None


def polygons_of(value: Any, *, where: str) -> tuple[Polygon, ...]:
    """Return the outlines of a list of lists of numbers; ``DataError`` for any other value."""
    for polygon in list_of(value, "polygons", where=where):
        if not isinstance(polygon, list) or not all(map(is_json_number, polygon)):
            raise DataError(f"{where}: polygon {polygon!r:.60} is not [x1, y1, x2, y2, ..] of at least three points")
    return tuple(tuple(map(float, polygon)) for polygon in value)


def rle_of(value: Any, size: ImageSize, *, where: str) -> str:
    """Return the compressed run lengths of ``{"size": [height, width], "counts": text or list}``, COCO's format.

    ``DataError`` unless they are a mask of an image of this size.
    """
    # Masks need NumPy, which most commands do not load.
    from virft.geometry.masks import mask_to_rle, rle_to_mask

    if not isinstance(value, Mapping) or value.keys() != {"size", "counts"}:
        raise DataError(f"{where}: rle {value!r:.60} is not an object of size and counts")
    if value["size"] != [size.height, size.width]:
        raise DataError(
            f"{where}: rle has the size {value['size']!r:.60}; expected [{size.height}, {size.width}], "
            "height and width of its image"
        )
    counts = value["counts"]
    if not isinstance(counts, str | list):
        raise DataError(f"{where}: rle has the counts {counts!r:.60}; expected a text or a list of numbers")
    try:
        mask = rle_to_mask(counts, size)
    except ValueError as error:
        raise DataError(f"{where}: rle: {error}") from error
    return counts if isinstance(counts, str) else mask_to_rle(mask)
