"""A picture with boxes on it, as shapes: the template only has to draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virft.geometry.boxes import intersection_over_union
from virft.metrics.detection import find_hits
from virft.report.render.images import boxes_of
from virft.report.render.page_images import PagePicture
from virft.types import Answer, Box, Detections, Polygon, Target

HIT_IOU = 0.5


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
    picture: PagePicture, target: Target | None, answer: Answer, *, in_words: str, polygons: Sequence[Polygon] = ()
) -> Panel:
    """The target's boxes below, the answer's above: a hit overlaps a target by IoU 0.5 or more."""
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
