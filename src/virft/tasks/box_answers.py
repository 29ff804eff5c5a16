"""Functions that the tasks whose answers are boxes share: texts, JSON, reward-hacking probes and oracle boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from virft.errors import DataError
from virft.geometry.boxes import size_of
from virft.tasks.task import BlindAnswer, BlindAnswers, Metric, fit_blind
from virft.text.records import is_json_number, list_of, parse_polygons
from virft.types import Answer, Box, ImageSize, InvalidElement, Polygon, Sample

WHOLE_IMAGE = (0, 0, 1000, 1000)
"""Relative coordinates of the box around the whole image."""
HUGE = (-1e300, -1e300, 1e300, 1e300)
"""Coordinates that no image has, to probe the parser."""
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")

RelativeBox = tuple[float, ...]
"""Left, top, right and bottom edge, relative to 1000 of the image's width and height."""

BOX_METRICS = (
    Metric(name="boxes_per_question", description="predicted boxes", better=0),
    Metric(name="no_objects_frac", description="fraction of answers without objects", better=0),
    Metric(name="mean_confidence", description="mean confidence of all predicted boxes", better=0),
    Metric(name="f1_mean", description="F1, mean over IoU 0.5 to 0.95"),
    Metric(name="precision_mean", description="precision, mean over IoU 0.5 to 0.95"),
    Metric(name="recall_mean", description="recall, mean over IoU 0.5 to 0.95"),
)
"""The last metrics of the tasks whose answers are lists of boxes."""

BOX_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
"""JSON Schema of a box, [x1, y1, x2, y2] in pixels."""
POLYGONS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 6},
}
"""JSON Schema of outlines, [[x1, y1, x2, y2, ..], ..] in pixels."""

OUTLINES_SCHEMA: dict[str, Any] = {"type": "array", "items": POLYGONS_SCHEMA}
"""JSON Schema of the outlines of each of a target's objects."""

AREAS_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "number", "minimum": 0}}
"""JSON Schema of the areas of a target's objects, in square pixels."""


def parse_areas(record: Mapping[str, Any], number: int, *, where: str) -> tuple[float, ...]:
    """Return the areas of a target with ``number`` boxes, in square pixels; empty if the record has none.

    ``DataError`` for another number of areas, or values that are no areas.
    """
    areas = list_of(record.get("areas", []), "target.areas", where=where)
    if areas and len(areas) != number:
        raise DataError(f"{where}: {len(areas)} areas of {number} boxes; expected one for each, or none")
    for area in areas:
        if not is_json_number(area) or not 0 <= area < math.inf:
            raise DataError(f"{where}: area {area!r:.60} is not a number of pixels")
    return tuple(map(float, areas))


def parse_outlines(
    record: Mapping[str, Any], boxes: Sequence[Box], size: ImageSize, *, where: str
) -> tuple[tuple[Polygon, ...], ...]:
    """Return the outlines of each object of a target, in the order of its boxes; empty if the record has none.

    ``DataError`` for another number of objects, values that are no outlines on the image, and outlines outside of their
    box.
    """
    outlines = list_of(record.get("outlines", []), "target.outlines", where=where)
    if outlines and len(outlines) != len(boxes):
        raise DataError(
            f"{where}: {len(outlines)} outlines of {len(boxes)} objects; expected a list for each, or none at all"
        )
    parsed = tuple(parse_polygons(polygons, size, where=where) for polygons in outlines)
    for box, polygons in zip(boxes, parsed, strict=False):
        if polygons and not any(_reaches_into(polygon, box) for polygon in polygons):
            raise DataError(f"{where}: the outlines of object {format_box(box)} are outside of its box")
    return parsed


def outlines_to_record(outlines: Sequence[Sequence[Polygon]]) -> list[list[list[float]]]:
    """Return the JSON of the outlines of each object, the input of ``parse_outlines``."""
    return [[list(polygon) for polygon in polygons] for polygons in outlines]


def usable_outlines(boxes: Sequence[Box], outlines: Sequence[tuple[Polygon, ...]]) -> tuple[tuple[Polygon, ...], ...]:
    """Return the annotated outlines of each box, without those that say no more than the box; empty if none is left.

    ``outlines``: those of each box, or none at all.
    """
    usable = tuple(polygons if _say_more(polygons, box) else () for box, polygons in zip(boxes, outlines, strict=False))
    return usable if any(usable) else ()


def _reaches_into(polygon: Polygon, box: Box) -> bool:
    """Return True if the bounding box of a polygon has an area in common with a box."""
    xs, ys = polygon[::2], polygon[1::2]
    return min(xs) < box.x2 and max(xs) > box.x1 and min(ys) < box.y2 and max(ys) > box.y1


def _say_more(polygons: Sequence[Polygon], box: Box) -> bool:
    """Return True if outlines are in a box, and are not only its edge, which labelling tools draw around each box."""
    (x1, y1, x2, y2) = box.xyxy
    corners = {(x1, y1), (x2, y1), (x2, y2), (x1, y2)}
    is_edge = len(polygons) == 1 and set(zip(polygons[0][::2], polygons[0][1::2], strict=True)) == corners
    return not is_edge and any(_reaches_into(polygon, box) for polygon in polygons)


def format_corners(box: Box) -> str:
    """Return a box in whole pixels.

    >>> format_corners(Box(x1=1, y1=2, x2=30, y2=40.4))
    '1, 2 to 30, 40'
    """
    return f"{box.x1:.0f}, {box.y1:.0f} to {box.x2:.0f}, {box.y2:.0f}"


def format_box(box: Box) -> str:
    """Return a box as a list of its edges in tenths of pixels.

    >>> format_box(Box(x1=1, y1=2, x2=30, y2=40.44))
    '[1.0, 2.0, 30.0, 40.4]'
    """
    return "[" + ", ".join(f"{value:.1f}" for value in box.xyxy) + "]"


def count_boxes(number: int) -> str:
    """Return a number of boxes.

    >>> count_boxes(1), count_boxes(2)
    ('1 box', '2 boxes')
    """
    return "1 box" if number == 1 else f"{number} boxes"


def describe_list(count: str, items: Sequence[str], invalid: Sequence[InvalidElement]) -> str:
    """Return the full text of an answer that is a list, such as of boxes; ``count`` is the text of their number.

    >>> describe_list("1 box", ["1, 2 to 30, 40"], [InvalidElement(reason="3 values", piece="[1, 2, 3]")])
    '1 box: 1, 2 to 30, 40; invalid: 3 values'
    """
    if not items and not invalid:
        return "no objects"
    return (f"{count}: " if items else "") + "; ".join([*items, *(f"invalid: {one.reason}" for one in invalid)])


def list_lines(
    count: str, items: Sequence[str], invalid: Sequence[InvalidElement], size: ImageSize, *, kind: str = "box"
) -> list[str]:
    """Return the lines of ``virft ask`` about an answer that is a list; ``kind`` is a name of its elements.

    >>> list_lines("1 box", ["[1.0, 2.0, 30.0, 40.0]"], [], ImageSize(64, 48))
    ['answer: 1 box, in pixels of 64 x 48', '  [1.0, 2.0, 30.0, 40.0]']
    """
    if items:
        head = f"{count}, in pixels of {size.width} x {size.height}"
    else:
        head = f"no usable {kind}" if invalid else "no objects"
    return [
        f"answer: {head}",
        *(f"  {item}" for item in items),
        *(f"  invalid: {one.reason}: {one.piece}" for one in invalid),
    ]


def box_to_record(box: Box) -> dict[str, Any]:
    """Return the JSON of a predicted box, in hundredths of pixels."""
    return {"box": [round(value, 2) for value in box.xyxy]}


def size_counts(boxes: Sequence[Box]) -> dict[str, int]:
    """Return the numbers of boxes in all, and of small, medium and large ones."""
    sizes = [size_of(box) for box in boxes]
    return {"boxes": len(boxes), **{name: sizes.count(name) for name in ("small", "medium", "large")}}


def relative_box(box: Box, size: ImageSize) -> RelativeBox:
    """Return a box in pixels relative to its image.

    >>> relative_box(Box(x1=0, y1=10, x2=100, y2=50), ImageSize(200, 100))
    (0.0, 100.0, 500.0, 500.0)
    """
    width, height = size
    return (1000 * box.x1 / width, 1000 * box.y1 / height, 1000 * box.x2 / width, 1000 * box.y2 / height)


def box_in_pixels(relative: RelativeBox, size: ImageSize) -> Box:
    """Return a relative box in pixels of an image.

    >>> box_in_pixels((0, 100, 500, 500), ImageSize(200, 100))
    Box(x1=0.0, y1=10.0, x2=100.0, y2=50.0)
    """
    x1, y1, x2, y2 = relative
    width, height = size
    return Box(x1=x1 * width / 1000, y1=y1 * height / 1000, x2=x2 * width / 1000, y2=y2 * height / 1000)


def mean_box(boxes: Iterable[tuple[Box, ImageSize]]) -> tuple[int, ...] | None:
    """Return the mean edges of boxes, each relative to its image; None without boxes."""
    rows = [relative_box(box, size) for box, size in boxes]
    return tuple(round(fmean(column)) for column in zip(*rows, strict=True)) if rows else None


def blind_boxes(
    samples: Sequence[Sample],
    *,
    boxes_of: Callable[[Sample], Sequence[Box]],
    answer: Callable[[Box], Answer],
    hit_iou: float | None,
    by_query: bool = False,
) -> BlindAnswers:
    """Return image-blind answers with one box, fitted on training samples: mean box, best constant box, whole image.

    ``boxes_of``: target boxes of a sample. ``answer``: the answer that has this box. ``hit_iou``: see
    ``find_best_box``. ``by_query``: also the mean box of each query, of samples whose query is a class.
    """

    def always(relative: RelativeBox) -> BlindAnswer:
        return lambda sample: answer(box_in_pixels(relative, sample.target_size))

    def fit_mean(some: Sequence[Sample]) -> BlindAnswer | None:
        mean = mean_box((box, sample.target_size) for sample in some for box in boxes_of(sample))
        # The mean of very thin boxes may round to an empty one.
        return always(mean) if mean is not None and mean[0] < mean[2] and mean[1] < mean[3] else None

    def fit_best(some: Sequence[Sample]) -> BlindAnswer | None:
        from virft.tasks.constant_box import find_best_box  # NumPy stays unloaded until a baseline is computed

        found = find_best_box(
            [[relative_box(box, sample.target_size) for box in boxes_of(sample)] for sample in some], hit_iou=hit_iou
        )
        return None if found is None else always(found)

    return {
        **fit_blind("mean box", samples, fit_mean, by_query=by_query),
        **fit_blind("best constant box", samples, fit_best),
        "whole image": always(WHOLE_IMAGE),
    }


def write_list(boxes: Sequence[RelativeBox], confidence: float | str | None) -> str:
    """Return the content of a detection answer; ``confidence`` as it is, or none at all."""
    written = "" if confidence is None else f", 'Confidence': {confidence}"
    return "[" + ", ".join(f"{{'Position': {[*box]}{written}}}" for box in boxes) + "]"


def write_pair(box: RelativeBox) -> str:
    """Return the content of a grounding answer."""
    return f"({box[0]},{box[1]}),({box[2]},{box[3]})"


def use_full_width_digits(text: str) -> str:
    """Return the text with the digits of another script, to probe the parser."""
    return text.translate(_FULL_WIDTH)


def grid(number: int) -> list[RelativeBox]:
    """Return the cells of a grid over the image with ``number`` columns and rows."""
    ends = [1000 * i // number for i in range(number + 1)]
    return [
        (ends[column], ends[row], ends[column + 1], ends[row + 1]) for row in range(number) for column in range(number)
    ]


def shifted(box: RelativeBox, number: int) -> list[RelativeBox]:
    """Return a box and copies of it, each moved by 2 % of the width to the right, or left if there is no room."""
    step = 20 if box[2] + 20 * number <= 1000 else -20
    moved = [(box[0] + step * i, box[1], box[2] + step * i, box[3]) for i in range(number)]
    return [one for one in moved if one[0] >= 0 and one[2] <= 1000] or [box]


def shrink_box(box: Box, iou: float) -> Box:
    """Return a smaller box with the same centre and this IoU with ``box``.

    >>> shrink_box(Box(x1=0, y1=0, x2=20, y2=40), 0.25)
    Box(x1=5.0, y1=10.0, x2=15.0, y2=30.0)
    """
    side = math.sqrt(iou)
    dx, dy = ((1 - side) * (high - low) / 2 for low, high in ((box.x1, box.x2), (box.y1, box.y2)))
    return Box(x1=box.x1 + dx, y1=box.y1 + dy, x2=box.x2 - dx, y2=box.y2 - dy)
