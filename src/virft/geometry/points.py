"""Points and the boxes of the objects that they point to. A point is a hit if it is inside the box."""

from __future__ import annotations

from dataclasses import dataclass

from virft.geometry.boxes import assign_by_weight
from virft.types import Box, Point, Points


@dataclass(frozen=True, kw_only=True, slots=True)
class PointMatching:
    """The object of each predicted point, in text order.

    ``objects[i]``: index of the object, or None; ``closeness[i]``: see ``closeness_of``, 0 without an object;
    ``ignored``: points without an object that lie in a crowd region.
    """

    objects: tuple[int | None, ...]
    closeness: tuple[float, ...]
    ignored: frozenset[int] = frozenset()

    @property
    def num_hits(self) -> int:
        """Number of points with an object."""
        return sum(found is not None for found in self.objects)


def contains(box: Box, point: Point) -> bool:
    """Return True if a point is inside a box or on its edge, both in pixels."""
    return box.x1 <= point.x <= box.x2 and box.y1 <= point.y <= box.y2


def closeness_of(point: Point, box: Box) -> float:
    """Return 1 at the centre of a box, 0 on its edge and outside, linear between: the distance is that of the maximum
    norm, relative to half the width and half the height.

    >>> box = Box(x1=0, y1=0, x2=8, y2=4)
    >>> closeness_of(Point(4, 2), box), closeness_of(Point(5, 2), box), closeness_of(Point(8, 2), box)
    (1.0, 0.75, 0.0)
    """
    across = abs(2 * point.x - box.x1 - box.x2) / (box.x2 - box.x1)
    down = abs(2 * point.y - box.y1 - box.y2) / (box.y2 - box.y1)
    return max(0.0, 1.0 - max(across, down))


def match_points(predicted: Points, target: Points) -> PointMatching:
    """Return the one-to-one matching of points and objects with the most hits, and of those the largest closeness.

    A point may be matched with an object if it is inside its box. Source: Hungarian assignment of points, as in the
    evaluation of Molmo's pointing (arXiv 2409.17146), which has masks where this has boxes.

    >>> boxes = (Box(x1=0, y1=0, x2=8, y2=8), Box(x1=4, y1=0, x2=12, y2=8))
    >>> match_points(Points(items=(Point(6, 4), Point(1, 4))), Points(objects=boxes)).objects
    (1, 0)
    """
    hits = [[contains(box, point) for box in target.objects] for point in predicted.items]
    # Points without an object take no part: a long answer must not make a large assignment problem.
    rows = [row for row, inside in enumerate(hits) if any(inside)]
    # A hit weighs more than the closeness of all others together.
    base = 1.0 + len(target.objects)
    weights = [
        [
            base + closeness_of(predicted.items[row], box) if inside else 0.0
            for box, inside in zip(target.objects, hits[row], strict=True)
        ]
        for row in rows
    ]
    objects: list[int | None] = [None] * len(predicted.items)
    closeness = [0.0] * len(predicted.items)
    for place, column in assign_by_weight(weights):
        row = rows[place]
        objects[row] = column
        closeness[row] = closeness_of(predicted.items[row], target.objects[column])
    ignored = frozenset(
        row
        for row, point in enumerate(predicted.items)
        if objects[row] is None and any(contains(region, point) for region in target.crowd)
    )
    return PointMatching(objects=tuple(objects), closeness=tuple(closeness), ignored=ignored)


def centre_of(box: Box) -> Point:
    """Return the centre of a box, in pixels.

    >>> centre_of(Box(x1=0, y1=2, x2=10, y2=4))
    Point(x=5.0, y=3.0)
    """
    return Point((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2)
