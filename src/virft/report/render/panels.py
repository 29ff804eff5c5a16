"""A picture with boxes on it, as shapes: the template only has to draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virft.report.render.page_images import PagePicture
from virft.tasks import TASKS
from virft.types import Answer, Box, Polygon, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A box in pixels of the picture. ``kind``: target, hit or miss; ``text`` stands at its upper left corner."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A picture with shapes. ``in_words``: the same for someone who does not see it."""

    picture: PagePicture
    shapes: tuple[Shape, ...]
    outlines: tuple[str, ...]
    in_words: str

    @property
    def font_size(self) -> float:
        """Pixels of the picture that letters need to be read when the panel is small."""
        return round(max(self.picture.size) / 18, 1)


def panel(
    picture: PagePicture,
    task: str,
    target: Target | None,
    answer: Answer,
    *,
    in_words: str,
    polygons: Sequence[Polygon] = (),
) -> Panel:
    """The target's boxes below, the answer's above, each a hit or a miss as the task says."""
    shapes = [_shape("target", box) for box in TASKS[task].target_boxes(target)]
    marks = TASKS[task].answer_boxes(answer, target)
    shapes += [_shape("hit" if one.is_hit else "miss", one.box, one.text) for one in marks]
    return Panel(
        picture=picture,
        shapes=tuple(shapes),
        outlines=tuple(_points(polygon) for polygon in polygons),
        in_words=in_words,
    )


def _shape(kind: str, box: Box, text: str = "") -> Shape:
    return Shape(
        kind=kind,
        x=round(box.x1, 1),
        y=round(box.y1, 1),
        width=round(box.x2 - box.x1, 1),
        height=round(box.y2 - box.y1, 1),
        text=text,
    )


def _points(polygon: Polygon) -> str:
    return " ".join(f"{value:.1f}" for value in polygon)
