"""The one box that, answered to every question, scores best on the labelled images: a baseline that sees no image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from virft.geometry.boxes import IOU_TOLERANCE

MAX_QUESTIONS = 20_000
"""Number of questions that the search uses at most, evenly spaced: more do not move the box."""
_MAX_CANDIDATES = 400
_NUM_REFINED = 4
"""The search starts from this number of best candidates; the objective has several local maxima."""
_STEPS = (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0)
"""Distances of the local search, in thousandths of the image."""
_MOVES = np.vstack(
    [sign * np.vstack([np.eye(4), [[1, 0, 1, 0], [0, 1, 0, 1], [-1, 0, 1, 0], [0, -1, 0, 1]]]) for sign in (1, -1)]
)
"""Directions of the local search: one edge, a shift, or both edges of one axis apart or together."""
_PAIRS_AT_ONCE = 4_000_000

Boxes = NDArray[np.float64]
"""Corners (x1, y1, x2, y2) in thousandths of the image, [N, 4]."""


def find_best_box(
    questions: Sequence[Sequence[Sequence[float]]], *, hit_iou: float | None = None
) -> tuple[int, int, int, int] | None:
    """Return the box with the best mean score over questions, in whole thousandths of the image; None without boxes.

    ``questions``: the target boxes of each question, in thousandths of the image. The score of a question is its
    largest IoU with a target. With ``hit_iou`` it is 1 if that IoU is at least ``hit_iou``, else 0, so that the box
    has the largest F1 of all answers with one box for every question; the mean IoU then decides between equal boxes.
    Candidates are the target boxes and the whole image; the best ones are improved by a local search.

    >>> find_best_box([[(0, 0, 400, 400)], [(0, 0, 400, 410)], [(600, 600, 700, 700)]], hit_iou=0.5)
    (0, 0, 400, 400)
    """
    with_boxes = [boxes for boxes in questions if boxes]
    if not with_boxes:
        return None
    used = [with_boxes[i] for i in _evenly_spaced(len(with_boxes), MAX_QUESTIONS)]
    targets = np.array([box for boxes in used for box in boxes], dtype=np.float64)
    starts = np.cumsum([0, *map(len, used)])[:-1]
    some = np.rint(targets[_evenly_spaced(len(targets), _MAX_CANDIDATES)])
    candidates = np.unique(np.vstack([some, [[0, 0, 1000, 1000]]]), axis=0)
    values = _objective(candidates, targets, starts, hit_iou)
    best = candidates[np.argsort(-values, kind="stable")[:_NUM_REFINED]]
    refined = [_refine(box, targets, starts, hit_iou) for box in best]
    x1, y1, x2, y2 = max(refined, key=lambda found: found[0])[1]
    return round(x1), round(y1), round(x2), round(y2)


def _evenly_spaced(number: int, limit: int) -> list[int]:
    """Return at most ``limit`` indices below ``number``, evenly spaced."""
    return list(range(number)) if number <= limit else [i * number // limit for i in range(limit)]


def _refine(
    box: NDArray[np.float64], targets: Boxes, starts: NDArray[np.int64], hit_iou: float | None
) -> tuple[float, NDArray[np.float64]]:
    """Move edges by ever smaller steps as long as the objective grows; return the objective and the box."""
    value = float(_objective(box[None], targets, starts, hit_iou)[0])
    for step in _STEPS:
        while True:
            moved = np.clip(box + step * _MOVES, 0, 1000)
            moved = moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]
            values = _objective(moved, targets, starts, hit_iou)
            if not len(moved) or values.max() <= value:
                break
            value, box = float(values.max()), moved[values.argmax()]
    return value, box


def _objective(boxes: Boxes, targets: Boxes, starts: NDArray[np.int64], hit_iou: float | None) -> NDArray[np.float64]:
    """Return the score of each box, [boxes].

    ``starts``: index into ``targets`` of the first target of each question, [questions].
    """
    size = max(1, _PAIRS_AT_ONCE // len(targets))
    found = [_iou(boxes[i : i + size], targets) for i in range(0, len(boxes), size)]
    largest = [np.maximum.reduceat(ious, starts, axis=1) for ious in found]  # [boxes, questions]
    means = [one.mean(axis=1) for one in largest]
    if hit_iou is not None:
        # The number of hits is an integer and the mean IoU is at most 1: a mean never outweighs a hit.
        means = [
            (one >= hit_iou - IOU_TOLERANCE).sum(axis=1) + mean / 2 for one, mean in zip(largest, means, strict=True)
        ]
    return np.concatenate(means) if means else np.zeros(0)


def _iou(boxes: Boxes, targets: Boxes) -> NDArray[np.float64]:
    """Return the IoU of each box with each target, [boxes, targets]; the same in thousandths as in pixels."""
    low = np.maximum(boxes[:, None, :2], targets[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], targets[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    areas, target_areas = (np.prod(one[:, 2:] - one[:, :2], axis=1) for one in (boxes, targets))
    union = areas[:, None] + target_areas[None] - both
    ious: NDArray[np.float64] = both / np.maximum(union, 1e-9)
    return ious
