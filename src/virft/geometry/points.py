"""Points and the objects that they point to. A point is a hit inside the box and, if it is known, the outline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virft.geometry.boxes import assign_by_weight
from virft.types import Box, Point, Points, Polygon


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


def surrounds(polygon: Polygon, point: Point) -> bool:
    """Return True if a point is inside a polygon, both in pixels (even-odd rule).

    >>> [surrounds((0, 0, 4, 0, 4, 4), point) for point in (Point(3, 1), Point(1, 3))]
    [True, False]
    """
    return sum(x > point.x for x in _crossings(polygon, point.y)) % 2 == 1


def _crossings(polygon: Polygon, y: float) -> Iterator[float]:
    """Yield the x at which the edges of a polygon cross the horizontal line at y."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y1 <= y) != (y2 <= y):
            yield x1 + (y - y1) / (y2 - y1) * (x2 - x1)


def is_hit(target: Points, index: int, point: Point) -> bool:
    """Return True if a point is on the object ``index`` of a target: inside its box and one of its outlines, if any."""
    if not contains(target.objects[index], point):
        return False
    outlines = target.outlines[index] if target.outlines else ()
    return not outlines or any(surrounds(one, point) for one in outlines)


_SCAN_LINES = 16


def point_on(box: Box, outlines: Sequence[Polygon]) -> Point:
    """Return a point on an object: the centre of its box, or if that is outside its outlines, the middle of the longest
    part of a horizontal line that is inside. All in pixels.

    >>> point_on(Box(x1=0, y1=0, x2=8, y2=8), [(0, 0, 8, 0, 8, 2, 2, 2, 2, 8, 0, 8)])  # an L
    Point(x=4.0, y=0.5)
    """
    centre = centre_of(box)
    if not outlines or any(surrounds(one, centre) for one in outlines):
        return centre
    longest, found = 0.0, centre
    for line in range(1, _SCAN_LINES):
        y = box.y1 + (box.y2 - box.y1) * line / _SCAN_LINES
        for outline in outlines:
            ends = sorted(_crossings(outline, y))
            for start, end in zip(ends[::2], ends[1::2], strict=True):
                low, high = max(start, box.x1), min(end, box.x2)
                if high - low > longest:
                    longest, found = high - low, Point((low + high) / 2, y)
    return found


def point_target(
    objects: Sequence[Box], *, outlines: Sequence[Sequence[Polygon]] = (), crowd: Sequence[Box] = ()
) -> Points:
    """Return the target for objects with these boxes, in pixels of the original image.

    ``outlines``: those of each object, or none at all. ``crowd``: regions in which a point is neither right nor wrong.

    >>> point_target([Box(x1=0, y1=0, x2=4, y2=2)]).items
    (Point(x=2.0, y=1.0),)
    """
    known = outlines or [()] * len(objects)
    return Points(
        items=tuple(point_on(box, polygons) for box, polygons in zip(objects, known, strict=True)),
        objects=tuple(objects),
        outlines=tuple(tuple(polygons) for polygons in outlines),
        crowd=tuple(crowd),
    )


def closeness_of(point: Point, target: Points, index: int) -> float:
    """Return 1 at the point of a target's object, 0 half a width or half a height of its box away, linear between.

    Of an object without outlines, that is from the centre of its box to its edge.

    >>> target = point_target([Box(x1=0, y1=0, x2=8, y2=4)])
    >>> [closeness_of(point, target, 0) for point in (Point(4, 2), Point(5, 2), Point(8, 2))]
    [1.0, 0.75, 0.0]
    """
    box, best = target.objects[index], target.items[index]
    across = 2 * abs(point.x - best.x) / (box.x2 - box.x1)
    down = 2 * abs(point.y - best.y) / (box.y2 - box.y1)
    return max(0.0, 1.0 - max(across, down))


def match_points(predicted: Points, target: Points) -> PointMatching:
    """Return the one-to-one matching of points and objects with the most hits, and of those the largest closeness.

    A point may be matched with an object if it is on it (``is_hit``). Source: Hungarian assignment of points, as in the
    evaluation of Molmo's pointing (arXiv 2409.17146), which has masks.

    >>> boxes = (Box(x1=0, y1=0, x2=8, y2=8), Box(x1=4, y1=0, x2=12, y2=8))
    >>> match_points(Points(items=(Point(6, 4), Point(1, 4))), point_target(boxes)).objects
    (1, 0)
    """
    columns = range(len(target.objects))
    hits = [[is_hit(target, column, point) for column in columns] for point in predicted.items]
    # Points without an object take no part: a long answer must not make a large assignment problem.
    rows = [row for row, inside in enumerate(hits) if any(inside)]
    # A hit weighs more than the closeness of all others together.
    base = 1.0 + len(target.objects)
    weights = [
        [base + closeness_of(predicted.items[row], target, column) if hits[row][column] else 0.0 for column in columns]
        for row in rows
    ]
    objects: list[int | None] = [None] * len(predicted.items)
    closeness = [0.0] * len(predicted.items)
    for place, column in assign_by_weight(weights):
        row = rows[place]
        objects[row] = column
        closeness[row] = closeness_of(predicted.items[row], target, column)
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
