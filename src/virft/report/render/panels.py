"""Panels: an image with its boxes as shapes that the template draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virft.geometry.boxes import intersection_over_union
from virft.metrics.detection import find_hits
from virft.report.render.images import boxes_of
from virft.report.render.page_images import PageImage
from virft.types import Answer, Box, Detections, Polygon, Target

HIT_IOU = 0.5


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
    image: PageImage, target: Target | None, answer: Answer, *, alt_text: str, polygons: Sequence[Polygon] = ()
) -> Panel:
    """Return a panel with the target's boxes below the predicted ones. A hit has an IoU of at least 0.5 with a target.

    ``target`` None: the ground truth is not known. ``polygons``: outlines of the target's mask.
    """
    shapes = [_shape("target", box) for box in (boxes_of(target) if target is not None else ())]
    if isinstance(answer, Detections):
        hits = find_hits(answer, target).hits if isinstance(target, Detections) else (False,) * len(answer.items)
        shapes += [
            _shape("hit" if hit else "miss", item.box, f"{item.confidence:.2f}")
            for item, hit in zip(answer.items, hits, strict=True)
        ]
    elif isinstance(answer, Box):
        iou = intersection_over_union(answer.xyxy, target.xyxy) if isinstance(target, Box) else 0.0
        shapes.append(_shape("hit" if iou >= HIT_IOU else "miss", answer))
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
