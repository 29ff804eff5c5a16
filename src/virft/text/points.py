"""Parser of completions with points, and writer of canonical ones.

As for boxes in ``virft.text.answers``, only this module converts points between the coordinate space of a model's text
and pixels of the original image. It never raises, whatever the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from virft.geometry.boxes import BoxSpace
from virft.text.answers import (
    CLIP_FRAC,
    are_at_most_1,
    at_most_1_reason,
    read_content,
    render_content,
    says_no_objects,
)
from virft.text.literals import Element, TooComplex, Value, read_elements
from virft.types import Answer, ImageSize, InvalidElement, Point, Points, Reading, Unreadable

_POINT_KEYS = frozenset({"position", "point_2d"})
_PIECE_CHARACTERS = 80
_NUMBER = r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?"
_TAG = re.compile(r"<points?(\s[^<>]*)>(?:[^<]*</points?>)?")
_COORDINATE = re.compile(rf"""\s([xy])([0-9]{{0,4}})\s*=\s*["']?\s*({_NUMBER})\s*["']?(?=[\s/]|\Z)""")
_ANY_COORDINATE = re.compile(r"\s[xy][0-9]*\s*=")
_BETWEEN_TAGS = re.compile(r"[\s,;]*")
_PERCENT = 100.0


class _WrittenPoint(NamedTuple):
    """A point as it is written, and the largest x and y of its unit."""

    numbers: Sequence[Value]
    extent: tuple[float, float]


class _NoPointError(Exception):
    """An element is not a valid point; the message is the reason. Raised and caught in this file only."""


def read_points(text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
    """Parse a pointing completion to ``Points`` in pixels of the original image, or ``Unreadable``.

    ``thinking``: a think block must precede the answer block. ``original`` and ``resized``: sizes of the image in
    pixels before and after the image processor. An element that is not a valid point becomes an ``InvalidElement``; the
    others still count. "No objects" must be stated: ``No Objects`` or ``[]``. A coordinate outside the extent by up to
    1 % is moved to the edge. If no coordinate is larger than 1, and one is not an integer, the model writes fractions
    of the image: ``Unreadable`` (``virft.text.answers.is_at_most_1``).

    Accepted formats: a list of dictionaries with ``Position`` or Qwen's ``point_2d`` (other keys, such as ``label``,
    are not read), a list of pairs, pairs ``(x1,y1),(x2,y2)``, and tags ``<point x="1" y="2">`` or
    ``<points x1="1" y1="2" x2="3" y2="4">``. Numbers with a decimal point in a tag are percent of width and height, as
    Molmo writes them (arXiv 2409.17146); whole numbers are in ``space``, as Qwen2.5-VL and Qwen3-VL write them.

    >>> size = ImageSize(500, 200)
    >>> text = '<answer>[{"point_2d": [100, 500], "label": "fox"}, {"point_2d": [7]}]</answer>'
    >>> answer = read_points(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=size, resized=size).answer
    >>> answer.items, answer.invalid[0].reason
    ((Point(x=50.0, y=100.0),), '1 value in a point; expected 2 numbers')
    >>> text = '<answer><point x="10.0" y="50.0" alt="fox">fox</point></answer>'
    >>> read_points(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=size, resized=size).answer.items
    (Point(x=50.0, y=100.0),)
    """
    extent = space.extent(original, resized)
    return read_content(text, thinking=thinking, parse=lambda content: _parse(content, extent, original))


def render_points(
    points: Points, *, space: BoxSpace, original: ImageSize, resized: ImageSize, thinking_text: str | None = None
) -> str:
    """Write the canonical completion for points in pixels of the original image, as integers of ``space``.

    Arguments and errors as in ``virft.text.answers.render_detection``; invalid elements are omitted.

    >>> size = ImageSize(500, 500)
    >>> render_points(Points(items=(Point(6, 17),)), space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    "<answer>[{'Position':[12,34]}]</answer>"
    """
    extent_x, extent_y = space.extent(original, resized)
    elements = (
        f"{{'Position':[{_rounded(x * extent_x / original.width)},{_rounded(y * extent_y / original.height)}]}}"
        for x, y in points.items
    )
    return render_content(f"[{','.join(elements)}]" if points.items else "No Objects", thinking_text=thinking_text)


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)


def _parse(content: str, extent: tuple[float, float], size: ImageSize) -> Answer:
    if says_no_objects(content):
        return Points()
    found = _elements_of_tags(content, extent) if content.startswith("<") else _elements_of_list(content, extent)
    if isinstance(found, Unreadable):
        return found
    items: list[Point] = []
    invalid: list[InvalidElement] = []
    coordinates: list[float] = []
    num_clipped = 0
    for written, piece in found:
        if isinstance(written, str):
            invalid.append(InvalidElement(reason=written, piece=_shorten(piece)))
            continue
        coordinates += [value for value in written.numbers if isinstance(value, float)]
        try:
            point, clipped = _place(written, size)
        except _NoPointError as fault:
            invalid.append(InvalidElement(reason=str(fault), piece=_shorten(piece)))
        else:
            items.append(point)
            num_clipped += clipped
    if are_at_most_1(coordinates):
        return Unreadable(reason=at_most_1_reason(*extent), piece=_shorten(content))
    return Points(items=tuple(items), invalid=tuple(invalid), num_clipped=num_clipped)


_Found = list[tuple[_WrittenPoint | str, str]]
"""Each point as it is written, or the reason why an element has none; with the text of the element."""


def _elements_of_list(content: str, extent: tuple[float, float]) -> _Found | Unreadable:
    elements = read_elements(content, 0, len(content))
    if isinstance(elements, TooComplex):
        return Unreadable(reason=elements.reason, piece=_shorten(content))
    if elements is None:
        return Unreadable(reason="neither a list of points nor No Objects", piece=_shorten(content))
    return [(one, content[element.start : element.end]) for element in elements for one in _points_of(element, extent)]


def _points_of(element: Element, extent: tuple[float, float]) -> Iterator[_WrittenPoint | str]:
    """Yield the points of an element, not yet checked, or the reason why it has none."""
    if element.value is None:
        yield element.fault
    elif isinstance(element.value, list):
        yield _WrittenPoint(element.value, extent)
    else:
        found = [held for key, held in element.value if key.lower() in _POINT_KEYS]
        if not found:
            yield "no Position"
        for held in found:
            if not isinstance(held, list):
                yield "Position is not a list"
            elif held and all(isinstance(one, list) for one in held):
                yield from (_WrittenPoint(one, extent) for one in held if isinstance(one, list))
            else:
                yield _WrittenPoint(held, extent)


def _elements_of_tags(content: str, extent: tuple[float, float]) -> _Found | Unreadable:
    found: _Found = []
    end = 0
    while (tag := _TAG.match(content, end)) is not None:
        found += [(one, tag[0]) for one in _points_of_tag(tag[1], extent)]
        after = _BETWEEN_TAGS.match(content, tag.end())
        end = tag.end() if after is None else after.end()
    if not found:
        return Unreadable(reason="neither a list of points nor No Objects", piece=_shorten(content))
    if end < len(content):
        found.append(("text after the points", content[end:]))
    return found


def _points_of_tag(attributes: str, extent: tuple[float, float]) -> Iterator[_WrittenPoint | str]:
    """Yield the points of a tag's attributes x, y, or x1, y1, x2, y2, ..; each pair in the order of its x."""
    written = _COORDINATE.findall(attributes)
    if len(written) != len(_ANY_COORDINATE.findall(attributes)):
        yield "an attribute x or y is not a number"
        return
    values: dict[str, dict[str, str]] = {"x": {}, "y": {}}
    for axis, number, value in written:
        if number in values[axis]:
            yield f"more than one {axis}{number}"
            return
        values[axis][number] = value
    if not written or values["x"].keys() != values["y"].keys():
        yield "no pair of x and y"
        return
    unit = (_PERCENT, _PERCENT) if any("." in value for _, _, value in written) else extent
    for number, x in values["x"].items():
        yield _WrittenPoint([float(x), float(values["y"][number])], unit)


def _place(written: _WrittenPoint, size: ImageSize) -> tuple[Point, bool]:
    """Return the point in pixels of the original image, and True if it was moved to the edge."""
    if len(written.numbers) != 2:
        num = len(written.numbers)
        raise _NoPointError(f"{num} value{'s' * (num != 1)} in a point; expected 2 numbers")
    x, y = written.numbers
    if not (isinstance(x, float) and isinstance(y, float)):
        raise _NoPointError("a value of a point is not a number")
    extent_x, extent_y = written.extent
    inside_x, inside_y = min(max(x, 0.0), extent_x), min(max(y, 0.0), extent_y)
    if abs(x - inside_x) > CLIP_FRAC * extent_x or abs(y - inside_y) > CLIP_FRAC * extent_y:
        raise _NoPointError(f"outside 0..{extent_x:g} x 0..{extent_y:g} by more than {CLIP_FRAC:.0%}")
    point = Point(inside_x * size.width / extent_x, inside_y * size.height / extent_y)
    return point, (inside_x, inside_y) != (x, y)


def _shorten(text: str) -> str:
    return text if len(text) <= _PIECE_CHARACTERS else text[:_PIECE_CHARACTERS] + "…"
