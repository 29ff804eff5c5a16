"""Panels: an image with its boxes as shapes that the template draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virft.report.render.page_images import PageImage
from virft.tasks import TASKS
from virft.types import Answer, Box, Polygon, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A box to draw, in pixels of the original image."""

    kind: str
    """``target``, ``hit`` or ``miss``."""
    x: float
    """Left edge."""
    y: float
    """Upper edge."""
    width: float
    """Width."""
    height: float
    """Height."""
    text: str = ""
    """Label at the upper left corner: the confidence, if there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """An image with shapes. ``outlines``: SVG points of polygons. ``alt_text``: for readers who cannot see images."""

    image: PageImage
    shapes: tuple[Shape, ...]
    outlines: tuple[str, ...]
    alt_text: str

    @property
    def font_size(self) -> float:
        """Font size in pixels of the original image, readable in a small panel."""
        return round(max(self.image.size) / 18, 1)


def make_panel(
    image: PageImage,
    task: str,
    target: Target | None,
    answer: Answer,
    *,
    alt_text: str,
    polygons: Sequence[Polygon] = (),
) -> Panel:
    """Return a panel with the target's boxes below the predicted ones, each a hit or a miss (``Task.answer_boxes``).

    ``target`` None: the ground truth is not known. ``polygons``: outlines of the target's mask.
    """
    shapes = [_shape("target", box) for box in TASKS[task].target_boxes(target)]
    marked = TASKS[task].answer_boxes(answer, target)
    shapes += [_shape("hit" if one.is_hit else "miss", one.box, one.text) for one in marked]
    return Panel(
        image=image,
        shapes=tuple(shapes),
        outlines=tuple(_points(polygon) for polygon in polygons),
        alt_text=alt_text,
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
