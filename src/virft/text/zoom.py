"""Zoom calls: a completion that requests an enlarged region of the image instead of answering.

Source of the form ``<tool_call>``: the tool ``image_zoom_in_tool`` of DeepEyes (arXiv 2505.14362) and Qwen3-VL.
"""

from __future__ import annotations

import re

from virft.geometry.boxes import BoxSpace
from virft.text.answers import MAX_TEXT_BYTES, place_box, render_corners
from virft.text.literals import Value, read_elements
from virft.types import Box, ImageSize, Unreadable

ZOOM_TOOL = "image_zoom_in_tool"
"""Name of the tool in a call of the form ``<tool_call>``."""
_CALL = re.compile(r"<(tool_call|zoom)>(.*?)</\1>", re.DOTALL)
_START = re.compile(r"<(?:tool_call|zoom)>")
_PIECE_CHARACTERS = 80


def read_zoom_call(text: str, *, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Box | Unreadable | None:
    """Parse a completion that may end with a zoom call: the box in pixels of the original image.

    ``Unreadable``: a call that is invalid. ``None``: no call, as in a text with an answer block. ``original`` and
    ``resized``: sizes of the image in pixels before and after the image processor. Boxes have the rules of answers: a
    coordinate outside by at most 1 % is clipped. Exactly one call is accepted, with no text after it, in one of two
    forms: ``<zoom>[x1, y1, x2, y2]</zoom>``, and a ``<tool_call>`` of ``image_zoom_in_tool`` with ``bbox_2d`` among its
    arguments.

    >>> size = ImageSize(500, 200)
    >>> read_zoom_call("<zoom>[100, 100, 200, 500]</zoom>", space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    Box(x1=50.0, y1=20.0, x2=100.0, y2=100.0)
    """
    if "<answer>" in text or not (starts := len(_START.findall(text))):
        return None
    if len(text.encode(errors="replace")) > MAX_TEXT_BYTES:
        return Unreadable(reason=f"longer than {MAX_TEXT_BYTES} bytes", piece=text[:_PIECE_CHARACTERS])
    found = _CALL.search(text)
    if starts > 1 or found is None:
        reason = f"{starts} zoom calls; expected one" if starts > 1 else "a zoom call that is not closed"
        return Unreadable(reason=reason, piece=text[:_PIECE_CHARACTERS])
    piece = found[0][:_PIECE_CHARACTERS]
    if text[found.end() :].strip():
        return Unreadable(reason="text after the zoom call", piece=piece)
    numbers = _numbers(found)
    if isinstance(numbers, str):
        return Unreadable(reason=numbers, piece=piece)
    return place_box(numbers, space=space, original=original, resized=resized)


def _numbers(call: re.Match[str]) -> list[Value] | str:
    """The values of the box of a call, or the reason why it has none."""
    elements = read_elements(call.string, *call.span(2))
    if not isinstance(elements, list) or len(elements) != 1:
        return "the zoom call holds no box"
    value: Value | None = elements[0].value
    if call[1] == "tool_call":
        name, arguments = (_at(value, key) for key in ("name", "arguments"))
        if name != ZOOM_TOOL:
            return f"a call of another tool than {ZOOM_TOOL}"
        value = _at(arguments, "bbox_2d")
    return value if isinstance(value, list) else "the zoom call holds no box"


def _at(value: Value | None, key: str) -> Value | None:
    """The value of a key of a dictionary; None if it has none or several."""
    found = [own for name, own in value if name == key] if isinstance(value, tuple) else []
    return found[0] if len(found) == 1 else None


def render_zoom_call(
    box: Box, *, space: BoxSpace, original: ImageSize, resized: ImageSize, thinking_text: str | None = None
) -> str:
    """Write the canonical zoom call for a box in pixels of the original image; ``thinking_text``: content of a think
    block before it, None: no block.

    >>> size = ImageSize(500, 500)
    >>> render_zoom_call(Box(x1=6, y1=17, x2=28, y2=39), space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    '<zoom>[12,34,56,78]</zoom>'
    """
    corners = render_corners(box, space=space, original=original, resized=resized).replace(" ", "")
    thought = "" if thinking_text is None else f"<think>{thinking_text}</think>"
    return f"{thought}<zoom>{corners}</zoom>"
