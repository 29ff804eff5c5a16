"""Geometry of boxes: overlap, clipping, box spaces, assignment. SciPy only.

Few boxes (an answer has about five) are handled in plain Python: it is several times faster there
than NumPy's call overhead. SciPy is imported when the first real assignment problem turns up: it
takes most of a second, and ``virft --help`` needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from virft.types import Box, ImageSize

XYXY = tuple[float, float, float, float]


class BoxSpace(StrEnum):
    """What the four numbers in a model's text mean. Converted in ``virft.text.answers`` only.

    ``RELATIVE_1000``: 0..1000 of the image's width and height (Qwen2-VL, Qwen3-VL, InternVL).
    ``RESIZED_PIXELS``: pixels of the image after the processor resized it (Qwen2.5-VL).
    ``ORIGINAL_PIXELS``: pixels of the image as it lies on disk (after EXIF orientation).
    """

    RELATIVE_1000 = "relative_1000"
    RESIZED_PIXELS = "resized_pixels"
    ORIGINAL_PIXELS = "original_pixels"

    def extent(self, original: ImageSize, resized: ImageSize) -> tuple[float, float]:
        """Largest x and largest y that a text in this space may hold.

        >>> BoxSpace.RELATIVE_1000.extent(ImageSize(640, 480), ImageSize(644, 476))
        (1000.0, 1000.0)
        """
        if self is BoxSpace.RELATIVE_1000:
            return 1000.0, 1000.0
        size = resized if self is BoxSpace.RESIZED_PIXELS else original
        return float(size.width), float(size.height)

    def scale_to_pixels(self, original: ImageSize, resized: ImageSize) -> tuple[float, float]:
        """Factors for x and y from this space to pixels of the original image."""
        width, height = self.extent(original, resized)
        return original.width / width, original.height / height


def intersection_over_union(a: XYXY, b: XYXY) -> float:
    """IoU of two boxes ``(x1, y1, x2, y2)``, in [0, 1]; 0 where the union is empty.

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


def generalized_iou(a: XYXY, b: XYXY) -> float:
    """GIoU of two boxes, in [-1, 1]: IoU less the share of the hull that neither covers.

    -1 where the union is empty. Source: Rezatofighi et al. 2019, arXiv 1902.09630.

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
    """IoU of every row box with every column box: ``matrix[row][column]``.

    ``intersection_over_union`` written out: its calls are a tenth of the time of a reward.
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


def assign_by_worth(worth: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """One-to-one pairs (row, column) of the largest total worth, by row; pairs worth 0 or less are left out.

    Source: Hungarian assignment, as in DETR (arXiv 2005.12872).

    >>> assign_by_worth([[9, 8], [8, 1]])  # 8 + 8 beats 9 + 1
    [(0, 1), (1, 0)]
    """
    if (pairs := undisputed_pairs(worth)) is not None:
        return pairs
    from scipy.optimize import linear_sum_assignment

    gains = [[value if value > 0.0 else 0.0 for value in row] for row in worth]
    rows, columns = linear_sum_assignment(gains, maximize=True)
    return [(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True) if worth[r][c] > 0.0]


def undisputed_pairs(worth: Sequence[Sequence[float]]) -> list[tuple[int, int]] | None:
    """Every pair (row, column) worth more than 0, by row, if no two of them compete; else None.

    The usual case of boxes, and ten times faster than a call of SciPy.

    >>> undisputed_pairs([[0, 8], [0, 0], [1, 0]]), undisputed_pairs([[9, 8], [0, 0]])
    ([(0, 1), (2, 0)], None)
    """
    pairs = []
    columns = set()
    for number, row in enumerate(worth):
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


def assign_by_iou(ious: Sequence[Sequence[float]], threshold: float) -> list[tuple[int, int]]:
    """One-to-one pairs (row, column) with IoU above ``threshold`` of the largest total IoU.

    Pairs at or below the threshold are worth nothing and are left out. ``threshold`` 0 keeps every
    pair that overlaps.

    >>> assign_by_iou([[0.9, 0.8], [0.8, 0.1]], threshold=0.5)
    [(0, 1), (1, 0)]
    """
    return assign_by_worth([[iou if iou > threshold else 0.0 for iou in row] for row in ious])


def match_greedily(ious: Sequence[Sequence[float]], order: Sequence[int], threshold: float) -> list[tuple[int, int]]:
    """Pairs (row, column): each row, in the given order, takes the free column it overlaps most.

    A pair needs IoU above ``threshold``; a tie takes the earlier column.
    Source: the matching of Visual-RFT's code and of COCO AP.

    >>> match_greedily([[0.9, 0.8], [0.8, 0.1]], order=[0, 1], threshold=0.5)
    [(0, 0)]
    """
    taken: set[int] = set()
    pairs = []
    for row in order:
        best, best_iou = -1, threshold
        for column, iou in enumerate(ious[row]):
            if iou > best_iou and column not in taken:
                best, best_iou = column, iou
        if best >= 0:
            taken.add(best)
            pairs.append((row, best))
    return pairs


SMALL, LARGE = 32.0**2, 96.0**2
"""Areas in pixels that bound small and large boxes. Source: COCO's evaluation."""


def size_of(box: Box) -> str:
    """Small, medium or large.

    >>> size_of(box_of((0, 0, 32, 32)))
    'medium'
    """
    return "small" if box.area < SMALL else "large" if box.area > LARGE else "medium"


def clip_xyxy(box: XYXY, width: float, height: float) -> XYXY:
    """The box cut to ``[0, width] x [0, height]``; may come out empty."""
    return (
        min(max(box[0], 0.0), width),
        min(max(box[1], 0.0), height),
        min(max(box[2], 0.0), width),
        min(max(box[3], 0.0), height),
    )


def xywh_to_xyxy(box: XYXY) -> XYXY:
    """COCO's ``(x, y, width, height)`` as corners."""
    x, y, width, height = box
    return (x, y, x + width, y + height)


def box_of(xyxy: XYXY) -> Box:
    """A ``Box`` of four corner coordinates."""
    return Box(x1=xyxy[0], y1=xyxy[1], x2=xyxy[2], y2=xyxy[3])
