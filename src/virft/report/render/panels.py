"""Panels: an image with its boxes as shapes that the template draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from virft.report.render.page_images import PageImage
from virft.tasks import TASKS
from virft.types import Answer, Box, ImageSize, Polygon, Target

MOST_LETTERS = 20
"""Letters of a class name at a box."""
_LETTER_WIDTH = 0.62
"""Mean width of a letter with its edge as a fraction of the font size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A box or point to draw, in pixels of the original image."""

    kind: str
    """``target``, ``hit`` or ``miss``; ``region`` for the region of a zoom call."""
    x: float
    """Left edge."""
    y: float
    """Upper edge."""
    width: float
    """Width."""
    height: float
    """Height."""
    radius: float = 0.0
    """Radius of the corners: half of the width for a point, which is drawn as a circle around it."""
    text: str = ""
    """Label at the upper left corner: class and confidence, as far as there are any."""
    text_x: float = 0.0
    """Where the label begins, or ends if ``text_ends``."""
    text_y: float = 0.0
    """Base line of the label."""
    text_ends: bool = False
    """The label ends at ``text_x``, because it would reach outside the image otherwise."""
    tone: int = 0
    """Index of the colour, for boxes whose colour is that of their class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """An image with shapes."""

    image: PageImage
    """The image."""
    shapes: tuple[Shape, ...]
    """Boxes and points, in drawing order."""
    outlines: tuple[str, ...]
    """SVG points of polygons: the mask of the target."""
    alt_text: str
    """Description for readers who cannot see images."""
    is_alone: bool = False
    """True if no other panel shows the image, so that the panel itself holds it."""
    answer_masks: tuple[str, ...] = ()
    """SVG path of each mask of an answer."""

    @property
    def font_size(self) -> float:
        """Font size in pixels of the original image, readable in a small panel."""
        return font_size(self.image.size)


def font_size(size: ImageSize) -> float:
    """Return the font size of labels in pixels of the image, for a panel of 4:3 that the image fits into."""
    return round(max(size.width, size.height * 4 / 3) / 18, 1)


def make_panel(
    image: PageImage,
    task: str,
    target: Target | None,
    answer: Answer,
    *,
    alt_text: str,
    label: str = "",
    polygons: Sequence[Polygon] = (),
    answer_masks: Sequence[Sequence[Polygon]] = (),
    region: Box | None = None,
) -> Panel:
    """Return a panel with the target's boxes below the predicted ones, each a hit or a miss (``Task.answer_boxes``).

    Points of answers are drawn as circles (``TaskBoxes.are_points``).

    ``target`` None: the ground truth is not known. ``label``: class of the boxes, written at the predicted ones.
    ``polygons``: outlines of the target's masks; those that are part of the target itself are drawn, too.
    ``answer_masks``: outlines of each mask of the answer, holes among them.
    ``region``: that of the answer's zoom call, below all boxes; None without one.
    """
    row = TASKS[task]
    targets = zip(row.target_boxes(target), row.target_labels(target), strict=True)
    shapes = [] if region is None else [make_shape("region", region, image.size, text="zoom")]
    shapes += [make_shape("target", box, image.size, text=name[:MOST_LETTERS]) for box, name in targets]
    make = make_dot if row.has_points else make_shape
    shapes += [
        make("hit" if one.is_hit else "miss", one.box, image.size, text=f"{label[:MOST_LETTERS]} {one.text}".strip())
        for one in row.answer_boxes(answer, target)
    ]
    return Panel(
        image=image,
        shapes=place_labels(shapes, image.size),
        outlines=outlines((*polygons, *row.target_outlines(target))),
        alt_text=alt_text,
        answer_masks=tuple("".join(f"M{points}Z" for points in outlines(one)) for one in answer_masks if one),
    )


def make_shape(kind: str, box: Box, size: ImageSize, *, text: str = "", tone: int = 0) -> Shape:
    """Return a box on an image of this size, with a label inside the image: above the box if there is room."""
    letter = font_size(size)
    ends = box.x1 + letter / 5 + _LETTER_WIDTH * letter * len(text) > size.width
    return Shape(
        kind=kind,
        x=round(box.x1, 1),
        y=round(box.y1, 1),
        width=round(box.x2 - box.x1, 1),
        height=round(box.y2 - box.y1, 1),
        text=text,
        text_x=round(min(box.x2, size.width) if ends else box.x1 + letter / 5, 1),
        text_y=round(box.y1 - letter / 4 if box.y1 > 1.3 * letter else box.y1 + letter, 1),
        text_ends=ends,
        tone=tone,
    )


def make_dot(kind: str, box: Box, size: ImageSize, *, text: str = "") -> Shape:
    """Return a point on an image of this size, given as a box without extent, as a circle around it with a label."""
    radius = font_size(size) / 4
    around = Box(x1=box.x1 - radius, y1=box.y1 - radius, x2=box.x2 + radius, y2=box.y2 + radius)
    return replace(make_shape(kind, around, size, text=text), radius=round(radius, 1))


def place_labels(shapes: Sequence[Shape], size: ImageSize) -> tuple[Shape, ...]:
    """Return the shapes with labels that do not overlap, predictions before targets.

    A label that overlaps an earlier one is moved inside its box, to the upper or lower edge, or below the box. Without
    room there, it is removed: overlapping labels are unreadable.
    """
    letter = font_size(size)
    placed: list[Box] = []
    result = list(shapes)
    for place in sorted(range(len(shapes)), key=lambda place: shapes[place].kind == "target"):
        shape = shapes[place]
        if not shape.text:
            continue
        bottom = shape.y + shape.height
        lines = (shape.text_y, shape.y + letter, bottom - letter / 4, bottom + letter)
        areas = {
            line: _label_area(replace(shape, text_y=line), letter) for line in lines if letter <= line <= size.height
        }
        free = [line for line, area in areas.items() if not any(_overlap(area, other) for other in placed)]
        if free:
            placed.append(areas[free[0]])
        result[place] = replace(shape, text_y=round(free[0], 1)) if free else replace(shape, text="")
    return tuple(result)


def _label_area(shape: Shape, letter: float) -> Box:
    """Return the area of a label, in pixels of the image."""
    width = _LETTER_WIDTH * letter * len(shape.text)
    left = shape.text_x - width if shape.text_ends else shape.text_x
    return Box(x1=left, y1=shape.text_y - 0.9 * letter, x2=left + width, y2=shape.text_y + 0.3 * letter)


def _overlap(first: Box, second: Box) -> bool:
    return first.x1 < second.x2 and second.x1 < first.x2 and first.y1 < second.y2 and second.y1 < first.y2


def outlines(polygons: Sequence[Polygon]) -> tuple[str, ...]:
    """Return polygons as SVG points."""
    return tuple(" ".join(f"{value:.1f}" for value in polygon) for polygon in polygons)
