"""Box geometry: overlap, clipping, coordinate spaces, bipartite matching.

A box is a tuple ``(x1, y1, x2, y2)`` of floats with ``x1 < x2`` and ``y1 < y2``; functions on several boxes take a
sequence of N such tuples. All of it is plain Python: a completion has about five boxes, and for so few the call
overhead of NumPy is several times the computation. SciPy is imported when the first real assignment problem occurs: the
import takes most of a second, and ``virft --help`` needs none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from virft.types import Box, ImageSize

XYXY = tuple[float, float, float, float]
"""Corners of a box: (x1, y1, x2, y2), the left, top, right and bottom edge, usually in pixels."""


IOU_TOLERANCE = 1e-9
"""An IoU that is smaller than a threshold by at most this reaches it: floats round an IoU of 3 / 5 to either side."""


class BoxSpace(StrEnum):
    """Coordinate space of the boxes and points in a model's text.

    Only ``virft.text.answers`` and ``virft.text.points`` convert between spaces.
    """

    RELATIVE_1000 = "relative_1000"
    """Thousandths of the image's width and height, 0 to 1000 (Qwen2-VL, Qwen3-VL, InternVL)."""
    RESIZED_PIXELS = "resized_pixels"
    """Pixels of the image after the image processor has resized it (Qwen2.5-VL)."""
    ORIGINAL_PIXELS = "original_pixels"
    """Pixels of the original image, after the EXIF orientation is applied."""

    def extent(self, original: ImageSize, resized: ImageSize) -> tuple[float, float]:
        """Return the largest x and the largest y of this space, for an image of these sizes in pixels.

        >>> BoxSpace.RELATIVE_1000.extent(ImageSize(640, 480), ImageSize(644, 476))
        (1000.0, 1000.0)
        """
        if self is BoxSpace.RELATIVE_1000:
            return 1000.0, 1000.0
        size = resized if self is BoxSpace.RESIZED_PIXELS else original
        return float(size.width), float(size.height)


def intersection_over_union(a: XYXY, b: XYXY) -> float:
    """Return the IoU of two boxes in the same unit, in [0, 1]; 0 if the union is empty.

    >>> intersection_over_union((0, 0, 2, 2), (1, 0, 3, 2))  # 2 / (4 + 4 - 2)
    0.3333333333333333
    """
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    # Not min() and max(): their calls are half the time of a reward.
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    if width <= 0.0:
        return 0.0
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if height <= 0.0:
        return 0.0
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    return intersection / union if union > 0.0 else 0.0


def rotated_bounds(box: XYXY, degrees: float) -> XYXY:
    """Return the smallest upright box around a box that is rotated about its centre; a whole turn has 360 degrees.

    >>> rotated_bounds((50, 40, 150, 60), 90)
    (90.0, 0.0, 110.0, 100.0)
    """
    if degrees % 180 == 0:
        return box
    x1, y1, x2, y2 = box
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    across = round((x2 - x1) * cos + (y2 - y1) * sin, 9) / 2
    down = round((x2 - x1) * sin + (y2 - y1) * cos, 9) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - across, y - down, x + across, y + down


def generalized_iou(a: XYXY, b: XYXY) -> float:
    """Return the generalised IoU of two boxes in the same unit, in [-1, 1].

    GIoU = IoU - (hull - union) / hull, where the hull is the smallest box around both. -1 if the union is empty.
    Source: Rezatofighi et al. 2019, arXiv 1902.09630.

    >>> generalized_iou((0, 0, 1, 1), (2, 0, 3, 1))  # 0 - 1 / 3
    -0.3333333333333333
    """
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    if hull <= 0.0 or union <= 0.0:
        return -1.0
    # A box inside the other: hull and union are equal, but rounding can leave the union larger.
    return intersection / union - max(0.0, hull - union) / hull


def iou_matrix(rows: Sequence[XYXY], columns: Sequence[XYXY]) -> list[list[float]]:
    """Return the IoU of each of N row boxes with each of M column boxes, as nested lists of shape [N, M].

    The formula of ``intersection_over_union`` is inlined: its calls would take a tenth of the time of a reward.
    """
    others = [(x1, y1, x2, y2, (x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in columns]
    matrix = []
    for ax1, ay1, ax2, ay2 in rows:
        area = (ax2 - ax1) * (ay2 - ay1)
        ious = []
        for bx1, by1, bx2, by2, other_area in others:
            width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
            height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
            if width <= 0.0 or height <= 0.0:
                ious.append(0.0)
                continue
            intersection = width * height
            union = area + other_area - intersection
            ious.append(intersection / union if union > 0.0 else 0.0)
        matrix.append(ious)
    return matrix


def assign_by_weight(weights: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Return the maximum-weight bipartite matching of ``weights`` [N, M] as pairs (row, column), sorted by row.

    Each row and each column is in at most one pair; pairs of weight 0 or less are excluded.
    Source: Hungarian assignment, as in DETR (arXiv 2005.12872).

    >>> assign_by_weight([[9, 8], [8, 1]])  # 8 + 8 is more than 9 + 1
    [(0, 1), (1, 0)]
    """
    if (pairs := undisputed_pairs(weights)) is not None:
        return pairs
    from scipy.optimize import linear_sum_assignment

    gains = [[value if value > 0.0 else 0.0 for value in row] for row in weights]
    rows, columns = linear_sum_assignment(gains, maximize=True)
    return [(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True) if weights[r][c] > 0.0]


def undisputed_pairs(weights: Sequence[Sequence[float]]) -> list[tuple[int, int]] | None:
    """Return all pairs (row, column) of positive weight in ``weights`` [N, M], by row, if no two share a row or column.

    None if two do: then the pairs are an assignment problem. The fast path: most completions have separate boxes, and
    this takes a tenth of the time of a call of SciPy.

    >>> undisputed_pairs([[0, 8], [0, 0], [1, 0]]), undisputed_pairs([[9, 8], [0, 0]])
    ([(0, 1), (2, 0)], None)
    """
    pairs = []
    columns = set()
    for number, row in enumerate(weights):
        found = -1
        for column, value in enumerate(row):
            if value > 0.0:
                if found >= 0 or column in columns:
                    return None
                found = column
        if found >= 0:
            columns.add(found)
            pairs.append((number, found))
    return pairs


def reaches(iou: float, threshold: float) -> bool:
    """Return whether boxes with this IoU match at a threshold: it is at least the threshold, and they overlap.

    AP, F1, rewards, curves and the confusion matrix share this rule. Rounding has no effect: see ``IOU_TOLERANCE``.

    >>> reaches(0.5, 0.5), reaches(0.1 + 0.2, 0.3), reaches(0.0, 0.0)
    (True, True, False)
    """
    return iou > _below(threshold)


def _below(threshold: float) -> float:
    """Return the largest IoU that does not reach a threshold."""
    return max(0.0, threshold - IOU_TOLERANCE)


CROWD_FRAC = 0.5
"""Fraction of its area from which a predicted box without a target lies in a crowd region (COCO's rule at IoU 0.5)."""


def covered_frac(box: XYXY, regions: Sequence[XYXY]) -> float:
    """Return the largest fraction of a box's area that lies in one of the regions, in [0, 1].

    Source: COCO's evaluation, which takes it in place of the IoU for crowd regions.

    >>> covered_frac((0, 0, 4, 1), [(0, 0, 1, 9), (1, 0, 9, 9)])
    0.75
    """
    area = (box[2] - box[0]) * (box[3] - box[1])
    covered = 0.0
    for other in regions:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0.0 and height > 0.0:
            covered = max(covered, width * height / area)
    return covered


def match_greedily(
    ious: Sequence[Sequence[float]], order: Sequence[int], threshold: float, *, inclusive: bool = True
) -> list[tuple[int, int]]:
    """Return pairs (row, column): each row, in the given order, takes the unmatched column of the largest IoU.

    ``ious`` has the shape [N, M]; ``order`` holds row indices. A pair needs an IoU of at least ``threshold``
    (``reaches``), or if not ``inclusive`` above it; among equal IoUs the first column is taken. Source: the matching
    of COCO AP, and of Visual-RFT's code.

    >>> match_greedily([[0.9, 0.8], [0.8, 0.1]], order=[0, 1], threshold=0.5)
    [(0, 0)]
    """
    taken: set[int] = set()
    pairs = []
    below = _below(threshold) if inclusive else threshold
    for row in order:
        best, best_iou = -1, below
        for column, iou in enumerate(ious[row]):
            if iou > best_iou and column not in taken:
                best, best_iou = column, iou
        if best >= 0:
            taken.add(best)
            pairs.append((row, best))
    return pairs


SMALL, LARGE = 32.0**2, 96.0**2
"""Bounds of medium boxes, in square pixels. Source: COCO's evaluation."""


def size_of(box: Box) -> str:
    """Return COCO's size category of a box in pixels: "small", "medium" or "large".

    >>> size_of(box_of((0, 0, 32, 32)))
    'medium'
    """
    return "small" if box.area < SMALL else "large" if box.area > LARGE else "medium"


def clip_xyxy(box: XYXY, width: float, height: float) -> XYXY:
    """Return the box clipped to ``[0, width] x [0, height]``, in the unit of the box; it may become empty."""
    return (
        min(max(box[0], 0.0), width),
        min(max(box[1], 0.0), height),
        min(max(box[2], 0.0), width),
        min(max(box[3], 0.0), height),
    )


def xywh_to_xyxy(box: XYXY) -> XYXY:
    """Convert COCO's ``(x, y, width, height)`` to corners, in the same unit."""
    x, y, width, height = box
    return (x, y, x + width, y + height)


def box_of(xyxy: XYXY) -> Box:
    """Return the ``Box`` with these corners, in pixels."""
    return Box(x1=xyxy[0], y1=xyxy[1], x2=xyxy[2], y2=xyxy[3])
