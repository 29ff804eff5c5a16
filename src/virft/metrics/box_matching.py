"""Matching of predicted boxes with targets by the rules of COCO's evaluator, and the precision at each recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virft.geometry.boxes import IOU_TOLERANCE, LARGE, SMALL, XYXY, covered_frac, iou_matrix
from virft.metrics.detection import COCO_IOU_THRESHOLDS

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCO's evaluator reads the precision."""
MAX_BOXES = 100
"""Number of boxes of one class on one image that count, best scores first (COCO)."""
AREA_RANGES: Mapping[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, SMALL),
    "medium": (SMALL, LARGE),
    "large": (LARGE, 1e10),
}
"""COCO's ranges of object areas in square pixels; both ends belong to a range."""
ORDERS = 200
"""Number of orders over which AP is averaged if boxes on different images have equal scores."""
_CHUNK = 2_000_000
_DECIMALS = 6
"""Areas are rounded to 1e-6 square pixels: a box of 32 x 32 is on the bound whatever its position is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxQuestion:
    """Predicted and target boxes of one class on one image, in pixels."""

    image: str
    """Name of the image."""
    label: str
    """Name of the class."""
    boxes: Sequence[XYXY]
    """Predicted boxes in text order."""
    scores: Sequence[float]
    """Score of each predicted box, by which boxes are ranked."""
    targets: Sequence[XYXY]
    """Ground-truth boxes."""
    areas: Sequence[float] = ()
    """Area of each target object in square pixels; empty: areas of the boxes."""
    crowd: Sequence[XYXY] = ()
    """Regions in which a predicted box is neither a hit nor a false positive."""
    exhaustive: bool = True
    """Whether all objects of the class are labelled; if not, a box without a match is ignored (LVIS only)."""
    ious: Sequence[Sequence[float]] | None = None
    """IoU of each predicted object with each target, such as that of their masks; None: the IoU of the boxes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassMatches:
    """Predicted boxes of one class and one area range, best score first, at each of T IoU thresholds."""

    images: NDArray[np.int64]
    """Number of the image of each box, shape [boxes]."""
    questions: NDArray[np.int64]
    """Number of the question of each box, shape [boxes]. It does not depend on names or on the order of the images."""
    ranks: NDArray[np.int64]
    """Number of boxes of the same question that have a better score, shape [boxes]."""
    groups: NDArray[np.int64]
    """Number of better scores, shape [boxes]: boxes of equal scores have the same."""
    hits: NDArray[np.bool_]
    """True if the box is a hit, shape [T, boxes]."""
    ignored: NDArray[np.bool_]
    """True if the box is neither a hit nor a false positive, shape [T, boxes]."""
    targets: NDArray[np.float64]
    """Number of target boxes of each image, shape [images]."""

    def orders(self, most: int, seed: int = 0) -> NDArray[np.int64]:
        """Return orders of the boxes by score, shape [orders, boxes]: one, or ``most`` random ones if scores are equal.

        Boxes of equal scores are in random order of their questions, and in text order in each question. The random
        numbers are the same for the same boxes and ``seed``.
        """
        last = np.append(self.groups[1:] != self.groups[:-1], True)
        in_one_question = np.append(self.questions[1:] == self.questions[:-1], True)
        if (last | in_one_question).all():
            return np.arange(len(self.groups))[None]
        keys = np.random.Generator(np.random.PCG64(seed)).random((most, int(self.questions.max()) + 1))
        # A stable sort: the boxes of one question stay in their order.
        return np.argsort(self.groups + keys[:, self.questions], axis=1, kind="stable")


def match_class(
    questions: Sequence[BoxQuestion],
    number: Mapping[str, int],
    areas: tuple[float, float] = AREA_RANGES["all"],
    max_boxes: int = MAX_BOXES,
) -> ClassMatches:
    """Match the boxes of all questions about one class.

    ``number``: name of an image -> its index. ``areas``: range of areas in square pixels; targets outside it are
    ignored, and so are boxes that match them, or match nothing and are outside themselves. In each question boxes of
    equal scores are matched in text order. Source: COCO's evaluation.
    """
    targets = np.zeros(len(number))
    found: list[tuple[list[tuple[float, list[bool], list[bool]]], int]] = []
    for one in questions:
        inside = [areas[0] <= area <= areas[1] for area in _target_areas(one)]
        targets[number[one.image]] += sum(inside)
        order = sorted(range(len(one.boxes)), key=lambda index: -one.scores[index])[:max_boxes]
        if order:
            columns = _match(order, one, inside, areas)
            scores = [one.scores[index] for index in order]
            found.append(([(score, *both) for score, both in zip(scores, columns, strict=True)], number[one.image]))
    # By content, so that the number of a question does not depend on the order of the images.
    found.sort()
    rows = [
        (-score, at, rank, place, hits, ignored)
        for at, (boxes, place) in enumerate(found)
        for rank, (score, hits, ignored) in enumerate(boxes)
    ]
    rows.sort(key=lambda row: row[:3])
    shape = (len(rows), len(COCO_IOU_THRESHOLDS))
    return ClassMatches(
        images=np.array([row[3] for row in rows], dtype=np.int64),
        questions=np.array([row[1] for row in rows], dtype=np.int64),
        ranks=np.array([row[2] for row in rows], dtype=np.int64),
        groups=np.unique([row[0] for row in rows], return_inverse=True)[1].reshape(-1),
        hits=np.array([row[4] for row in rows], dtype=bool).reshape(shape).T,
        ignored=np.array([row[5] for row in rows], dtype=bool).reshape(shape).T,
        targets=targets,
    )


def precision_at_recalls(
    matches: ClassMatches, weights: NDArray[np.float64], *, orders: int = ORDERS, seed: int = 0
) -> NDArray[np.float64] | None:
    """Return the interpolated precision at each threshold and recall, shape [T, 101]; None without targets.

    ``weights``: the number of times that each image counts, shape [images]. The precision is the mean over ``orders``
    random orders of the questions, drawn with ``seed``, if boxes of different questions have equal scores.
    """
    total = float(weights @ matches.targets)
    if not total:
        return None
    result = np.zeros((len(COCO_IOU_THRESHOLDS), len(RECALLS)))
    chosen = matches.orders(orders, seed)
    for part in np.array_split(chosen, -(-chosen.size // _CHUNK)) if chosen.size else ():
        each = weights[matches.images][part]
        for row, (hits, ignored) in enumerate(zip(matches.hits, matches.ignored, strict=True)):
            is_hit = hits[part]
            # A hit is where the recall rises and where the precision is largest, so the hits decide: [orders, hits].
            found = np.cumsum(is_hit * each, axis=1)[is_hit].reshape(len(part), -1)
            false = np.cumsum(~(hits | ignored)[part] * each, axis=1)[is_hit].reshape(len(part), -1)
            precision = found / np.maximum(found + false, np.spacing(1))
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = found / total
            same = bool((recall == recall[0]).all())
            for at, one in zip([recall[0]] if same else recall, [envelope] if same else envelope, strict=True):
                first = np.searchsorted(at, RECALLS, side="left")
                inside = first < len(at)
                result[row, inside] += np.atleast_2d(one)[:, first[inside]].sum(axis=0)
    return result / max(1, len(chosen))


def recall_of(matches: ClassMatches, max_boxes: int) -> NDArray[np.float64] | None:
    """Return the recall of the best ``max_boxes`` of each question, shape [T]; None without targets."""
    total = float(matches.targets.sum())
    if not total:
        return None
    return np.asarray(matches.hits[:, matches.ranks < max_boxes].sum(axis=1) / total)


def _target_areas(question: BoxQuestion) -> list[float]:
    return list(question.areas) or [_area(box) for box in question.targets]


def _match(
    order: Sequence[int], question: BoxQuestion, inside: Sequence[bool], areas: tuple[float, float]
) -> list[tuple[list[bool], list[bool]]]:
    """For each box of ``order``, best score first: hit at each threshold, and ignored at each threshold.

    COCO ignores boxes in a crowd region, and boxes on a target outside the range of areas. LVIS ignores all boxes
    without a match if not all objects are labelled.
    """
    lowest = COCO_IOU_THRESHOLDS[0] - IOU_TOLERANCE
    boxes = [question.boxes[index] for index in order]
    if question.ious is None:
        found: Sequence[Sequence[float]] = iou_matrix(boxes, question.targets)
    else:
        found = [question.ious[index] for index in order]
    near = [[(iou, column) for column, iou in enumerate(ious) if iou >= lowest] for ious in found]
    in_crowd = [covered_frac(box, question.crowd) for box in boxes]
    outside = [not question.exhaustive or not areas[0] <= _area(box) <= areas[1] for box in boxes]
    num = len(COCO_IOU_THRESHOLDS)
    columns = [([False] * num, [is_outside] * num) for is_outside in outside]
    rows = [row for row in range(len(boxes)) if near[row] or in_crowd[row] >= lowest]
    for at, threshold in enumerate(COCO_IOU_THRESHOLDS):
        taken: set[int] = set()
        lowest = threshold - IOU_TOLERANCE
        for row in rows:
            hits, ignored = columns[row]
            # Targets inside the range have priority over all others.
            best = _best(near[row], taken, inside, in_range=True, lowest=lowest)
            hits[at] = best >= 0
            if hits[at]:
                ignored[at] = False
            else:
                best = _best(near[row], taken, inside, in_range=False, lowest=lowest)
                iou = next((iou for iou, column in near[row] if column == best), lowest)
                is_in_crowd = in_crowd[row] >= iou
                if is_in_crowd:
                    best = -1  # a crowd region is never taken
                ignored[at] = outside[row] or is_in_crowd or best >= 0
            if best >= 0:
                taken.add(best)
    return columns


def _best(
    near: Sequence[tuple[float, int]], taken: set[int], inside: Sequence[bool], *, in_range: bool, lowest: float
) -> int:
    """Index of the largest IoU of at least ``lowest`` among free targets inside (or outside) the range; -1 if none."""
    best = -1
    for iou, column in near:
        if iou >= lowest and inside[column] == in_range and column not in taken:
            best, lowest = column, iou
    return best


def _area(box: XYXY) -> float:
    return round((box[2] - box[0]) * (box[3] - box[1]), _DECIMALS)
