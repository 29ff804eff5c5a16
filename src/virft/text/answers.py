"""Parser of completions, and writer of canonical completions.

Training, SFT, evaluation and ``ask`` use this parser, and only it converts boxes between the coordinate space of a
model's text and pixels of the original image. It never raises, whatever the text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from virft.geometry.boxes import XYXY, BoxSpace, clip_xyxy
from virft.text.literals import Element, TooComplex, Value, Word, read_elements
from virft.types import (
    Answer,
    Box,
    Detection,
    Detections,
    ImageSize,
    InvalidElement,
    Label,
    LabelledDetections,
    Reading,
    Unreadable,
)

MAX_TEXT_BYTES = 32 * 1024
"""Largest length of a completion in bytes of UTF-8; longer ones are unreadable."""
CLIP_FRAC = 0.01
"""Fraction of the extent of the box space by which a coordinate may be outside; it is then clipped."""

_THINK, _THINK_END, _ANSWER, _ANSWER_END = _TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_NO_OBJECTS = frozenset({"no objects", "no object"})
_BOX_KEYS = frozenset({"position", "bbox_2d", "bbox", "box", "boxes", "bboxes"})
_CONFIDENCE_KEYS = frozenset({"confidence", "score"})
_LABEL_KEYS = frozenset({"label", "category", "class", "name"})
_PIECE_CHARACTERS = 80

_N = r"\s*([+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*"
_USUAL_ELEMENT = re.compile(
    rf"""\s*(\{{\s*(?:'Position'|"Position"|"bbox_2d")\s*:\s*\[{_N},{_N},{_N},{_N}\]\s*"""
    r"""(?:,\s*(?:'Label'|"Label"|"label")\s*:\s*('[^'\\]*'|"[^"\\]*")\s*)?"""
    rf"""(?:,\s*(?:'Confidence'|"Confidence")\s*:{_N})?\}})\s*([,\]])"""
)
_FENCE = re.compile(r"```(?:[A-Za-z]*[ \t]*\r?\n|json\b|python\b)?")
_BOX_TAG = re.compile(
    r"(?:<ref>([^<]*)</ref>\s*|<\|object_ref_start\|>([^<]*)<\|object_ref_end\|>\s*)?(<box>|<\|box_start\|>)"
)
_GLM_MARKERS = ("<|begin_of_box|>", "<|end_of_box|>")
"""Around an answer of GLM-4.1V and GLM-4.5V, of boxes or of anything else."""
_BOX_TAG_END = {"<box>": "</box>", "<|box_start|>": "<|box_end|>"}
_BETWEEN_BOXES = re.compile(r"[\s,;]*")
_NO_LABEL = "a box without a label"
_AT_MOST_1 = "all numbers at most 1"
_WRITTEN_CONFIDENCE = re.compile(r"'Confidence':([0-9.]+)")
"""As ``render_detection`` writes it."""


class _Frame(NamedTuple):
    """Extents of the box space and size of the original image: ``pixel_x = x * width / extent_x``."""

    extent_x: float
    extent_y: float
    width: int
    height: int


class _Part(NamedTuple):
    """Span of text that holds boxes, and the name before it."""

    start: int
    end: int
    label: str | None


class _WrittenBox(NamedTuple):
    """A box as it is written, not yet checked."""

    numbers: Sequence[Value]
    confidence: Value | None
    label: Value | None


class _NoBoxError(Exception):
    """An element is not a valid box; the message is the reason. Raised and caught in this file only."""


# --- text -> Reading ---------------------------------------------------------------------------------


def read_detection(text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
    """Parse a detection completion to ``Detections`` in pixels of the original image, or ``Unreadable``.

    ``thinking``: a think block must precede the answer block. ``original`` and ``resized``: sizes of the image in
    pixels before and after the image processor. An element that is not a valid box becomes an ``InvalidElement``; the
    others still count. "No objects" must be stated: ``No Objects`` or ``[]``. A coordinate outside the extent by up to
    1 % is clipped. Corners are reordered only if both coordinates are swapped; with one swapped pair the box is
    ambiguous and invalid. A box without area is invalid. If no coordinate is larger than 1, and one is not an integer,
    the model writes fractions of the image: ``Unreadable`` (``is_at_most_1``). Items are in the order of the text,
    spans are characters of ``text``; boxes of one dictionary share its span.

    Accepted formats: a list of dictionaries or of flat boxes, ``{"objects": [..]}`` alone or in a list, a dictionary
    with several boxes (``{"bbox_2d": [[..], [..]]}``, or repeated keys), pairs of corners ``(x1,y1),(x2,y2)``, and the
    box tags of Qwen and InternVL around any of them, each with a name before it.

    >>> size = ImageSize(500, 200)
    >>> text = "<answer>[{'Position': [100, 100, 200, 500], 'Confidence': 0.9}, {'Position': [1, 2]}]</answer>"
    >>> answer = read_detection(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=size, resized=size).answer
    >>> answer.items[0].box, answer.items[0].confidence
    (Box(x1=50.0, y1=20.0, x2=100.0, y2=100.0), 0.9)
    >>> answer.invalid[0].reason
    '2 values in a box; expected 4 numbers'
    """
    well_formed, block = _find_answer(text, thinking)
    if isinstance(block, Unreadable):
        return Reading(text=text, well_formed=well_formed, answer=block)
    answer = _read_boxes(text, *block, _frame_of(space, original, resized))
    return Reading(text=text, well_formed=well_formed, answer=answer)


def read_labelled_boxes(
    text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize
) -> Reading:
    """Parse a completion about several classes to ``LabelledDetections`` in pixels of the original image.

    Arguments, accepted formats and faults are those of ``read_detection``; Qwen's ``{"bbox_2d": [..], "label": ".."}``
    is among the formats. A box without a label is an ``InvalidElement``. Labels may be any text.

    >>> size = ImageSize(1000, 1000)
    >>> text = '<answer>[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8]}]</answer>'
    >>> read = read_labelled_boxes(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    >>> read.answer.items[0].label, read.answer.invalid[0].reason
    ('cat', 'a box without a label')
    """
    reading = read_detection(text, thinking=thinking, space=space, original=original, resized=resized)
    answer = reading.answer
    if not isinstance(answer, Detections):
        return reading
    unlabelled = [item for item in answer.items if not (item.label and _is_visible(item.label))]
    invalid = [
        InvalidElement(reason=_NO_LABEL, piece=_piece(text[slice(*item.span)] if item.span else ""), span=item.span)
        for item in unlabelled
    ]
    labelled = LabelledDetections(
        items=tuple(item for item in answer.items if item.label and _is_visible(item.label)),
        invalid=(*answer.invalid, *invalid),
        num_clipped=answer.num_clipped,
    )
    return Reading(text=reading.text, well_formed=reading.well_formed, answer=labelled)


def read_classification(text: str, *, thinking: bool) -> Reading:
    """Parse a classification completion to the ``Label`` in its answer block, or ``Unreadable``.

    The label is the text of the block without a code fence and surrounding spaces.

    >>> read_classification("<think>whiskers</think><answer> Siamese cat </answer>", thinking=True).answer.text
    'Siamese cat'
    """
    return read_content(text, thinking=thinking, parse=lambda label: Label(text=label))


def read_content(text: str, *, thinking: bool, parse: Callable[[str], Answer]) -> Reading:
    """Return the reading of a completion whose answer is plain text, such as a name or a number.

    ``parse``: from the content of the answer block, without fences and outer spaces and never blank, to the answer or
    ``Unreadable``.

    >>> read_content("<answer> 3 </answer>", thinking=False, parse=int).answer
    3
    """
    well_formed, block = _find_answer(text, thinking)
    if isinstance(block, Unreadable):
        return Reading(text=text, well_formed=well_formed, answer=block)
    start, end = _strip_fence(text, *block)
    content = text[start:end]
    answer = parse(content) if _is_visible(content) else Unreadable(reason="the answer block is empty")
    return Reading(text=text, well_formed=well_formed, answer=answer)


def read_grounding(text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
    """Parse a grounding completion to its ``Box`` in pixels of the original image, or ``Unreadable``.

    Accepted formats: those of ``read_detection``. Two or more boxes are unreadable. Arguments, clipping and order of
    corners as in ``read_detection``.

    >>> size = ImageSize(1000, 1000)
    >>> text = "<answer>(10,20),(30,40)</answer>"
    >>> read_grounding(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=size, resized=size).answer
    Box(x1=10.0, y1=20.0, x2=30.0, y2=40.0)
    """
    well_formed, block = _find_answer(text, thinking)
    if isinstance(block, Unreadable):
        return Reading(text=text, well_formed=well_formed, answer=block)
    answer = _read_one_box(text, *block, _frame_of(space, original, resized))
    return Reading(text=text, well_formed=well_formed, answer=answer)


def place_box(
    numbers: Sequence[Value], *, space: BoxSpace, original: ImageSize, resized: ImageSize
) -> Box | Unreadable:
    """Return the box of four numbers of ``space``, in pixels of the original image. Rules are those of answers.

    >>> size = ImageSize(500, 200)
    >>> place_box([100.0, 100.0, 200.0, 500.0], space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    Box(x1=50.0, y1=20.0, x2=100.0, y2=100.0)
    """
    frame = _frame_of(space, original, resized)
    try:
        box, _ = _place(numbers, frame)
    except _NoBoxError as fault:
        return Unreadable(reason=str(fault), piece=_piece(str(numbers)))
    if are_at_most_1([one for one in numbers if isinstance(one, float)]):
        return Unreadable(reason=at_most_1_reason(frame.extent_x, frame.extent_y), piece=_piece(str(numbers)))
    return box


def is_at_most_1(answer: Answer) -> bool:
    """Return whether an answer is unreadable because its coordinates are fractions of the image, all at most 1.

    >>> size = ImageSize(1000, 1000)
    >>> text = "<answer>[0.19, 0.14, 0.46, 0.43]</answer>"
    >>> space = BoxSpace.RELATIVE_1000
    >>> is_at_most_1(read_grounding(text, thinking=False, space=space, original=size, resized=size).answer)
    True
    """
    return isinstance(answer, Unreadable) and answer.reason.startswith(_AT_MOST_1)


def split_reasoning(text: str, *, unfinished: bool = False) -> tuple[str, str]:
    """Split a completion into reasoning and answer for display, without tags.

    Reasoning is the think block and all other text before the answer block; a text without blocks is all answer.
    Nothing is validated: a ``Reading`` says if the answer can be parsed. ``unfinished``: the text is still being
    generated, and an incomplete tag at its end is removed.

    >>> split_reasoning("<think>red fur</think><answer>fox</answer>")
    ('red fur', 'fox')
    >>> split_reasoning("<think>red fur</thi", unfinished=True)
    ('red fur', '')
    """
    begun = text.rfind("<")
    if unfinished and begun >= 0 and any(tag.startswith(text[begun:]) for tag in _TAGS if tag != text[begun:]):
        text = text[:begun]
    mark = next((tag for tag in (_ANSWER, _THINK_END) if tag in text), None)
    if mark is None:
        before, answer = (text, "") if _THINK in text else ("", text)
    else:
        before, _, answer = text.partition(mark)
    reasoning = before.replace(_THINK, "").replace(_THINK_END, "")
    return reasoning.strip(), answer.partition(_ANSWER_END)[0].strip()


def _find_answer(text: str, thinking: bool) -> tuple[bool, tuple[int, int] | Unreadable]:
    """Return whether the text is well-formed, and the span of the content of its answer block.

    Tags are counted in the whole text: if a think block quotes ``<answer>``, there are two, and the text is ambiguous.
    """
    if len(text) > MAX_TEXT_BYTES or (not text.isascii() and len(text.encode(errors="replace")) > MAX_TEXT_BYTES):
        return False, Unreadable(reason=f"longer than {MAX_TEXT_BYTES} bytes", piece=_piece(text))
    num_starts, num_ends = text.count(_ANSWER), text.count(_ANSWER_END)
    if not num_starts and not num_ends:
        return False, Unreadable(reason="no answer block", piece=_piece(text))
    if num_starts != 1 or num_ends != 1:
        reason = f"{num_starts} {_ANSWER} and {num_ends} {_ANSWER_END}; expected one of each"
        return False, Unreadable(reason=reason, piece=_piece(text))
    tag_start, end = text.find(_ANSWER), text.find(_ANSWER_END)
    start = tag_start + len(_ANSWER)
    if end < start:
        return False, Unreadable(reason=f"{_ANSWER_END} comes before {_ANSWER}", piece=_piece(text))
    if not _is_visible(text[start:end]):
        return False, Unreadable(reason="the answer block is empty")
    after = text[end + len(_ANSWER_END) :].strip()
    well_formed = not after and _is_well_formed_before(text, tag_start, thinking)
    return well_formed, (start, end)


def _is_well_formed_before(text: str, tag_start: int, thinking: bool) -> bool:
    """Return True if exactly one non-empty think block precedes the answer; without thinking, if nothing does."""
    before = text[:tag_start].strip()
    num_tags = int(thinking)
    if text.count(_THINK) != num_tags or text.count(_THINK_END) != num_tags:
        return False
    if not thinking:
        return not before
    is_block = before.startswith(_THINK) and before.endswith(_THINK_END)
    return is_block and _is_visible(before[len(_THINK) : -len(_THINK_END)])


def _is_visible(text: str) -> bool:
    """Return True if the text has more than spaces and zero-width characters."""
    return any(character.isprintable() and character != " " for character in text)


def _read_boxes(text: str, start: int, end: int, frame: _Frame) -> Detections | Unreadable:
    usual = _read_usual_list(text, start, end, frame)
    if usual is not None:
        return usual
    start, end = _strip_fence(text, start, end)
    parts, rest = _parts_of_text(text, start, end)
    items: list[Detection] = []
    invalid: list[InvalidElement] = []
    coordinates: list[float] = []
    num_clipped = 0
    for part in parts:
        if len(parts) == 1 and rest == end and says_no_objects(text[part.start : part.end]):
            return Detections()
        elements = read_elements(text, part.start, part.end)
        if isinstance(elements, TooComplex):
            return Unreadable(reason=elements.reason, piece=_piece(text[part.start : part.end]))
        if elements is None:
            if len(parts) == 1:
                reason = "neither a list of boxes nor No Objects"
                return Unreadable(reason=reason, piece=_piece(text[part.start : part.end]))
            elements = [Element(None, "neither a list of boxes nor two corners", part.start, part.end)]
        for element in _join_corners(elements):
            span = (element.start, element.end)
            piece = _piece(text[slice(*span)])
            written = _written_boxes(element, part.label)
            if isinstance(written, str):
                invalid.append(InvalidElement(reason=written, piece=piece, span=span))
                continue
            for one in written:
                coordinates += [value for value in one.numbers if isinstance(value, float)]
                try:
                    confidence, label = _checked(one)
                    box, clipped = _place(one.numbers, frame)
                except _NoBoxError as fault:
                    invalid.append(InvalidElement(reason=str(fault), piece=piece, span=span))
                else:
                    items.append(Detection(box=box, confidence=confidence, label=label, span=span))
                    num_clipped += clipped
    if are_at_most_1(coordinates):
        return Unreadable(reason=at_most_1_reason(frame.extent_x, frame.extent_y), piece=_piece(text[start:end]))
    if rest < end:
        invalid.append(InvalidElement(reason="text after the boxes", piece=_piece(text[rest:end]), span=(rest, end)))
    return Detections(items=tuple(items), invalid=tuple(invalid), num_clipped=num_clipped)


def says_no_objects(text: str) -> bool:
    """Return True if the content of an answer block is the statement that there are no objects.

    >>> says_no_objects(" No Objects. "), says_no_objects("no fox")
    (True, False)
    """
    return len(text) < 32 and " ".join(text.strip(" '\"`.!*").split()).casefold() in _NO_OBJECTS


def are_at_most_1(coordinates: Sequence[float]) -> bool:
    """Return True if no coordinate is larger than 1 and one is no integer: [0, 0, 1, 1] may be a box of one unit."""
    return bool(coordinates) and max(coordinates) <= 1.0 and not all(map(float.is_integer, coordinates))


def at_most_1_reason(extent_x: float, extent_y: float) -> str:
    """Return the reason of an answer whose coordinates are fractions of the image; see ``is_at_most_1``."""
    return f"{_AT_MOST_1}: fractions of the image; expected 0..{extent_x:g} x 0..{extent_y:g}"


def _parts_of_text(text: str, start: int, end: int) -> tuple[list[_Part], int]:
    """Split a span at box tags, and return the index at which the text after the last box begins.

    Tags are InternVL's ``<box>`` and Qwen's ``<|box_start|>``; a name before one holds until the next name. Without
    tags, the whole span is one part.
    """
    parts: list[_Part] = []
    label: str | None = None
    rest = start
    while (tag := _BOX_TAG.match(text, rest, end)) is not None:
        close = _BOX_TAG_END[tag[3]]
        stop = text.find(close, tag.end(), end)
        if stop < 0:
            break
        name = tag[1] if tag[1] is not None else tag[2]
        label = label if name is None else name.strip() or None
        parts.append(_Part(*_strip(text, tag.end(), stop), label))
        after = _BETWEEN_BOXES.match(text, stop + len(close), end)
        rest = end if after is None else after.end()
    return (parts, rest) if parts else ([_Part(start, end, None)], end)


def _join_corners(elements: Sequence[Element]) -> list[Element]:
    """Return the elements with each two neighbours that are points, ``(x1,y1),(x2,y2)``, joined to one box."""
    joined: list[Element] = []
    is_open = False  # the last element is a point without a second one
    for element in elements:
        if is_open and _is_point(element.value):
            first = joined.pop()
            joined.append(Element([*_items(first.value), *_items(element.value)], "", first.start, element.end))
            is_open = False
        else:
            joined.append(element)
            is_open = _is_point(element.value)
    return joined


def _is_point(value: Value | None) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, float) for number in value)


def _items(value: Value | None) -> list[Value]:
    return value if isinstance(value, list) else []


def _written_boxes(element: Element, label: str | None) -> list[_WrittenBox] | str:
    """Return the boxes of an element, not yet checked, or the reason why it has none. ``label``: the name before it."""
    if element.value is None:
        return element.fault
    if isinstance(element.value, list):
        return [_WrittenBox(numbers, 1.0, label) for numbers in _boxes_in(element.value)]
    found: list[_WrittenBox] = []
    for pairs in _groups_of(element.value):
        one: dict[frozenset[str], Value] = {}
        for key, held in pairs:
            for keys in (_BOX_KEYS, _CONFIDENCE_KEYS, _LABEL_KEYS):
                if key.lower() in keys:
                    if keys in one:
                        return f"more than one of {', '.join(sorted(keys))}"
                    one[keys] = held
        numbers = one.get(_BOX_KEYS)
        if not isinstance(numbers, list):
            return "no Position" if numbers is None else "Position is not a list"
        boxes = _boxes_in(numbers)
        confidences = _values_of(one.get(_CONFIDENCE_KEYS, 1.0), len(boxes))
        names = _values_of(one[_LABEL_KEYS], len(boxes)) if _LABEL_KEYS in one else [label] * len(boxes)
        found += [_WrittenBox(*written) for written in zip(boxes, confidences, names, strict=True)]
    return found


def _values_of(value: Value, num_boxes: int) -> Sequence[Value | None]:
    """Return the value of each of several boxes: they share one, or have a list of as many."""
    return value if num_boxes > 1 and isinstance(value, list) and len(value) == num_boxes else [value] * num_boxes


def _groups_of(pairs: Sequence[tuple[str, Value]]) -> list[list[tuple[str, Value]]]:
    """Split the pairs of a dictionary that repeats its keys into one group for each box.

    All groups must have a box; otherwise the dictionary is one group, whose repeated keys contradict each other.
    """
    groups: list[list[tuple[str, Value]]] = [[]]
    for key, value in pairs:
        if any(key == other for other, _ in groups[-1]):
            groups.append([])
        groups[-1].append((key, value))
    if all(any(key.lower() in _BOX_KEYS for key, _ in group) for group in groups):
        return groups
    return [list(pairs)]


def _boxes_in(value: list[Value]) -> list[list[Value]]:
    """Return the boxes of a list: itself, two points in it, or the lists in it."""
    if len(value) == 2 and all(map(_is_point, value)):
        return [[*_items(value[0]), *_items(value[1])]]
    if value and all(isinstance(one, list) and len(one) > 2 for one in value):
        return [box for one in value for box in _boxes_in(_items(one))]
    return [value]


def _checked(written: _WrittenBox) -> tuple[float, str | None]:
    """Return confidence and label of a box."""
    confidence, label = written.confidence, written.label
    if not isinstance(confidence, float) or not 0.0 <= confidence <= 1.0:
        raise _NoBoxError(f"Confidence {_piece(str(confidence))}; expected a number from 0 to 1")
    return confidence, label if isinstance(label, str) and not isinstance(label, Word) else None


def _read_usual_list(text: str, start: int, end: int, frame: _Frame) -> Detections | None:
    """Fast path for the canonical format of a list, several times faster; ``None`` for any other format.

    Its result is the same as that of the general parser.
    """
    while start < end and text[start].isspace():
        start += 1
    if text[start] != "[":
        return None
    items: list[Detection] = []
    num_clipped = 0
    largest = 0.0
    while True:
        match = _USUAL_ELEMENT.match(text, start + 1 if not items else start, end)
        if match is None:
            return None
        _, x1, y1, x2, y2, label, confidence, mark = match.groups()
        score = 1.0 if confidence is None else float(confidence)
        largest = max(largest, float(x1), float(y1), float(x2), float(y2))
        try:
            box, clipped = _place((float(x1), float(y1), float(x2), float(y2)), frame)
        except _NoBoxError:
            return None
        if not 0.0 <= score <= 1.0:
            return None
        span = match.span(1)
        items.append(Detection(box=box, confidence=score, label=label and label[1:-1], span=span))
        num_clipped += clipped
        start = match.end()
        if mark == "]":
            whole = not text[start:end].strip() and largest > 1.0
            return Detections(items=tuple(items), num_clipped=num_clipped) if whole else None


def _read_one_box(text: str, start: int, end: int, frame: _Frame) -> Box | Unreadable:
    start, end = _strip_fence(text, start, end)
    answer = _read_boxes(text, start, end, frame)
    if isinstance(answer, Unreadable):
        return answer
    if answer.num_predicted != 1:
        reason = f"{answer.num_predicted} boxes or parts of boxes; expected one box"
        return Unreadable(reason=reason, piece=_piece(text[start:end]))
    if answer.invalid:
        return Unreadable(reason=answer.invalid[0].reason, piece=answer.invalid[0].piece)
    return answer.items[0].box


def _place(numbers: Sequence[Value], frame: _Frame) -> tuple[Box, bool]:
    """Return the box in pixels of the original image, and True if it was clipped."""
    if len(numbers) != 4:
        raise _NoBoxError(f"{len(numbers)} values in a box; expected 4 numbers")
    x1, y1, x2, y2 = numbers
    if not (isinstance(x1, float) and isinstance(y1, float) and isinstance(x2, float) and isinstance(y2, float)):
        raise _NoBoxError("a value of a box is not a number")
    extent_x, extent_y, width, height = frame
    if x1 > x2 and y1 > y2:
        x1, y1, x2, y2 = x2, y2, x1, y1
    if not (x1 < x2 and y1 < y2):
        raise _NoBoxError("a box without area" if x1 == x2 or y1 == y2 else "one pair of coordinates is swapped")
    clipped = x1 < 0.0 or y1 < 0.0 or x2 > extent_x or y2 > extent_y
    if clipped:
        margin_x, margin_y = CLIP_FRAC * extent_x, CLIP_FRAC * extent_y
        if x1 < -margin_x or y1 < -margin_y or x2 > extent_x + margin_x or y2 > extent_y + margin_y:
            raise _NoBoxError(f"outside 0..{extent_x:g} x 0..{extent_y:g} by more than {CLIP_FRAC:.0%}")
        x1, y1, x2, y2 = clip_xyxy((x1, y1, x2, y2), extent_x, extent_y)
    # Multiply first: 1000 * 641 / 1000 is exactly 641, 1000 * (641 / 1000) need not be.
    x1, y1, x2, y2 = x1 * width / extent_x, y1 * height / extent_y, x2 * width / extent_x, y2 * height / extent_y
    if not (x1 < x2 and y1 < y2):
        raise _NoBoxError("a box without area")
    return Box(x1=x1, y1=y1, x2=x2, y2=y2), clipped


def _frame_of(space: BoxSpace, original: ImageSize, resized: ImageSize) -> _Frame:
    return _Frame(*space.extent(original, resized), *original)


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _strip_fence(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without surrounding spaces, and without GLM's markers or one code fence around it."""
    start, end = _strip(text, start, end)
    begin, finish = _GLM_MARKERS
    if text.startswith(begin, start, end) and text.endswith(finish, start + len(begin), end):
        return _strip(text, start + len(begin), end - len(finish))
    fence = _FENCE.match(text, start, end)
    if fence is None or not text.endswith("```", fence.end(), end):
        return start, end
    return _strip(text, fence.end(), end - 3)


def _piece(text: str) -> str:
    """Shorten a text for logs."""
    return text if len(text) <= _PIECE_CHARACTERS else text[:_PIECE_CHARACTERS] + "…"


# --- facts -> canonical text -------------------------------------------------------------------------


def render_detection(
    detections: Detections,
    *,
    space: BoxSpace,
    original: ImageSize,
    resized: ImageSize,
    thinking_text: str | None = None,
) -> str:
    """Write the canonical completion for boxes in pixels of the original image.

    Coordinates are integers of ``space``, confidences have two decimals. ``original`` and ``resized``: sizes of the
    image in pixels before and after the image processor. ``thinking_text``: content of a think block; None: no block.
    Labels are omitted, since the question names the class, and so are invalid elements. A box narrower than half a unit
    is written one unit wide, because the parser rejects a box without area. Raises ``ValueError`` if ``thinking_text``
    is empty or has tags.

    >>> size = ImageSize(500, 500)
    >>> detections = Detections(items=(Detection(box=Box(x1=6, y1=17, x2=28, y2=39), confidence=0.9),))
    >>> render_detection(detections, space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    "<answer>[{'Position':[12,34,56,78],'Confidence':0.9}]</answer>"
    >>> render_detection(Detections(), space=BoxSpace.RELATIVE_1000, original=size, resized=size, thinking_text="None.")
    '<think>None.</think><answer>No Objects</answer>'
    """
    frame = _frame_of(space, original, resized)
    return _wrap(_write_boxes([(item, "") for item in detections.items], frame), thinking_text)


def render_labelled_boxes(
    detections: LabelledDetections,
    *,
    space: BoxSpace,
    original: ImageSize,
    resized: ImageSize,
    thinking_text: str | None = None,
) -> str:
    """Write the canonical completion for boxes with labels; arguments, rounding and errors as in ``render_detection``.

    The confidence follows the label: it is that of a box of this class.

    >>> size = ImageSize(500, 500)
    >>> detections = LabelledDetections(items=(Detection(box=Box(x1=6, y1=17, x2=28, y2=39), label="cat"),))
    >>> render_labelled_boxes(detections, space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    "<answer>[{'Position':[12,34,56,78],'Label':'cat','Confidence':1.0}]</answer>"
    """
    frame = _frame_of(space, original, resized)
    labelled = [(item, f"'Label':{quote_label(item.label or '')},") for item in detections.items]
    return _wrap(_write_boxes(labelled, frame), thinking_text)


def quote_label(label: str) -> str:
    """Return a label in quotes: single ones, or double ones if it has single ones or backslashes.

    >>> print(quote_label("cat"), quote_label("driver's licence"))
    'cat' "driver's licence"
    """
    return json.dumps(label, ensure_ascii=False) if "'" in label or "\\" in label else f"'{label}'"


def _write_boxes(items: Sequence[tuple[Detection, str]], frame: _Frame) -> str:
    """Write boxes, each with the text between its position and its confidence."""
    elements = []
    for item, between in items:
        x1, y1, x2, y2 = _grid(item.box.xyxy, frame)
        confidence = round(float(item.confidence), 2)
        elements.append(f"{{'Position':[{x1},{y1},{x2},{y2}],{between}'Confidence':{confidence}}}")
    return f"[{','.join(elements)}]" if elements else "No Objects"


def render_corners(box: Box, *, space: BoxSpace, original: ImageSize, resized: ImageSize) -> str:
    """Write a box in pixels of the original image as integers of ``space``, for a question about it.

    >>> size = ImageSize(500, 500)
    >>> render_corners(Box(x1=6, y1=17, x2=28, y2=39), space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    '[12, 34, 56, 78]'
    """
    return str(list(_grid(box.xyxy, _frame_of(space, original, resized))))


def confidence_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end (exclusive) of the characters of each confidence in a canonical completion.

    >>> text = "<answer>[{'Position':[12,34,56,78],'Confidence':0.9}]</answer>"
    >>> [text[start:end] for start, end in confidence_spans(text)]
    ['0.9']
    """
    return [found.span(1) for found in _WRITTEN_CONFIDENCE.finditer(text)]


def render_classification(label: Label, *, thinking_text: str | None = None) -> str:
    """Write the canonical completion for a class name; ``thinking_text``: content of a think block, None: no block.

    Raises ``ValueError`` if one of the texts is empty or has tags.

    >>> render_classification(Label(text="pug"))
    '<answer>pug</answer>'
    """
    return render_content(label.text, thinking_text=thinking_text)


def render_content(content: str, *, thinking_text: str | None = None) -> str:
    """Return the completion with this content of the answer block, and a think block if there is a text for it.

    >>> render_content("3", thinking_text="One, two, three.")
    '<think>One, two, three.</think><answer>3</answer>'
    """
    return _wrap(content, thinking_text)


def render_grounding(
    box: Box, *, space: BoxSpace, original: ImageSize, resized: ImageSize, thinking_text: str | None = None
) -> str:
    """Write the canonical completion for one box in pixels of the original image, as integers of ``space``.

    Arguments and errors as in ``render_detection``.

    >>> size = ImageSize(500, 500)
    >>> render_grounding(Box(x1=6, y1=17, x2=28, y2=39), space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    '<answer>(12,34),(56,78)</answer>'
    """
    x1, y1, x2, y2 = _grid(box.xyxy, _frame_of(space, original, resized))
    return _wrap(f"({x1},{y1}),({x2},{y2})", thinking_text)


def _grid(box: XYXY, frame: _Frame) -> tuple[int, int, int, int]:
    x1, x2 = _grid_pair(box[0] * frame.extent_x / frame.width, box[2] * frame.extent_x / frame.width, frame.extent_x)
    y1, y2 = _grid_pair(box[1] * frame.extent_y / frame.height, box[3] * frame.extent_y / frame.height, frame.extent_y)
    return x1, y1, x2, y2


def _grid_pair(low: float, high: float, extent: float) -> tuple[int, int]:
    """Round to integers that differ by at least 1; halves are rounded up, so that a width of one unit stays one."""
    first, second = math.floor(low + 0.5), math.floor(high + 0.5)
    if first == second:
        first = min(math.floor(low), int(extent) - 1)
        second = first + 1
    return first, second


def _wrap(answer: str, thinking_text: str | None) -> str:
    for text in (answer, thinking_text):
        if text is not None and (not _is_visible(text) or any(tag in text for tag in _TAGS)):
            raise ValueError(f"a block must contain text and no tags, got {text!r}")
    block = f"{_ANSWER}{answer}{_ANSWER_END}"
    return block if thinking_text is None else f"{_THINK}{thinking_text}{_THINK_END}{block}"
