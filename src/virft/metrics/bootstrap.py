"""Bootstrap confidence intervals over images.

Images are resampled with replacement; the questions about an image stay together, since they are not independent.
Source: Efron 1979; intervals are percentiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virft.geometry.boxes import XYXY
from virft.metrics.average_precision import BoxQuestion
from virft.metrics.detection import COCO_IOU_THRESHOLDS

RESAMPLES = 200
COVERAGE = 0.95
_RECALLS = np.linspace(0.0, 1.0, 101)
_MAX_BOXES = 100

Weights = NDArray[np.float64]
"""Number of times that each image was drawn, [images]."""


def draws(num_images: int, *, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Return the number of times that each image is drawn in each resample, [resamples, images].

    The numbers are the same for equal arguments.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples).astype(np.float64)


Statistic = Callable[[Weights], Mapping[str, float]]
"""Metrics by name as functions of the number of times that each image is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampled:
    """Values of each metric over resamples of ``images`` (any names of them): name -> array [resamples]."""

    images: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % confidence interval of each metric."""
        return {name: _middle(values) for name, values in self.values.items()}


def resample(statistics: Sequence[Statistic], images: Sequence[str], *, seed: int = 0) -> Resampled:
    """Return the metrics of all statistics over resamples of the images; none for a single image."""
    values: dict[str, NDArray[np.float64]] = {}
    for statistic in statistics if len(images) > 1 else ():
        found = [statistic(weights) for weights in draws(len(images), seed=seed)]
        values |= {name: np.array([one[name] for one in found]) for name in found[0]}
    return Resampled(images=tuple(images), values=values)


def difference_intervals(before: Sequence[Resampled], after: Sequence[Resampled]) -> dict[str, tuple[float, float]]:
    """Return the 95 % confidence interval of each difference after - before, paired by image.

    Each side is the mean over its seeds; only metrics that all seeds have are compared. All systems are resampled
    alike, so hard images affect both sides and the interval is narrower than two separate ones suggest. Systems with
    different images have no intervals.
    """
    everything = [*before, *after]
    if not before or not after or any(one.images != everything[0].images for one in everything):
        return {}

    def mean(seeds: Sequence[Resampled], name: str) -> NDArray[np.float64]:
        return np.asarray(np.mean([one.values[name] for one in seeds], axis=0))

    names = [name for name in after[0].values if all(name in one.values for one in everything)]
    return {name: _middle(mean(after, name) - mean(before, name)) for name in names}


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def ratio_statistic(ratios: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Statistic:
    """Return the statistic sum of parts / sum of wholes over images, 0 if the wholes sum to 0.

    ``ratios``: name -> (part of each image, whole of each image).

    >>> ratio_statistic({"accuracy": ([1, 2], [2, 2])})(np.array([1.0, 1.0]))
    {'accuracy': 0.75}
    """
    arrays = {name: np.asarray(both, dtype=np.float64) for name, both in ratios.items()}

    def statistic(weights: Weights) -> dict[str, float]:
        sums = {name: both @ weights for name, both in arrays.items()}
        return {name: float(part / whole) if whole else 0.0 for name, (part, whole) in sums.items()}

    return statistic


@dataclass(frozen=True, kw_only=True, slots=True)
class _ClassMatches:
    """Predicted boxes of one class, best score first: the image of each [boxes], and whether it is a hit or ignored at
    each of T thresholds [T, boxes]. ``targets``: number of target boxes of each image [images].
    """

    images: NDArray[np.int64]
    hits: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    targets: NDArray[np.float64]


def ap_statistic(questions: Sequence[BoxQuestion], *, images: Sequence[str]) -> Statistic:
    """Return ``ap`` and ``ap50`` as a function of resampled images; boxes are matched only once.

    With every image drawn once the values are those of COCO's evaluator. ``images``: order of the weights.
    """
    number = {name: at for at, name in enumerate(images)}
    classes = [
        _match_class([one for one in questions if one.label == label], number)
        for label in sorted({one.label for one in questions})
    ]

    def statistic(weights: Weights) -> dict[str, float]:
        found = [one for one in (_weighted_ap(matches, weights) for matches in classes) if one is not None]
        by_threshold = np.mean(found, axis=0) if found else np.zeros(len(COCO_IOU_THRESHOLDS))
        return {"ap": float(by_threshold.mean()), "ap50": float(by_threshold[0])}

    return statistic


def _match_class(questions: Sequence[BoxQuestion], number: dict[str, int]) -> _ClassMatches:
    scores: list[float] = []
    places: list[int] = []
    columns: list[tuple[list[bool], list[bool]]] = []
    targets = np.zeros(len(number))
    for one in sorted(questions, key=lambda one: number[one.image]):
        targets[number[one.image]] += len(one.targets)
        order = sorted(range(len(one.boxes)), key=lambda index: -one.scores[index])[:_MAX_BOXES]
        scores += [one.scores[index] for index in order]
        places += [number[one.image]] * len(order)
        columns += _match([one.boxes[index] for index in order], one)
    best_first = np.argsort(-np.asarray(scores), kind="stable") if scores else np.zeros(0, dtype=np.int64)
    hits, ignored = (
        np.array([column[part] for column in columns], dtype=bool).reshape(-1, len(COCO_IOU_THRESHOLDS)).T
        for part in (0, 1)
    )
    return _ClassMatches(
        images=np.asarray(places, dtype=np.int64)[best_first],
        hits=hits[:, best_first],
        ignored=ignored[:, best_first],
        targets=targets,
    )


def _match(boxes: Sequence[XYXY], question: BoxQuestion) -> list[tuple[list[bool], list[bool]]]:
    """For each box, best score first: hit at each threshold, and ignored at each threshold.

    COCO ignores boxes in a crowd region. LVIS ignores all boxes without a match if not all objects are labelled.
    """
    overlaps = [[_overlap(box, other, of_box=False) for other in question.targets] for box in boxes]
    in_crowd = [max((_overlap(box, other, of_box=True) for other in question.crowd), default=0.0) for box in boxes]
    columns: list[tuple[list[bool], list[bool]]] = [([], []) for _ in boxes]
    for threshold in COCO_IOU_THRESHOLDS:
        taken: set[int] = set()
        for row, (hits, ignored) in enumerate(columns):
            best, best_iou = -1, min(threshold, 1 - 1e-10)
            for column, iou in enumerate(overlaps[row]):
                if column not in taken and iou >= best_iou:
                    best, best_iou = column, iou
            if best >= 0:
                taken.add(best)
            hits.append(best >= 0)
            is_ignored = not question.exhaustive or in_crowd[row] >= min(threshold, 1 - 1e-10)
            ignored.append(best < 0 and is_ignored)
    return columns


def _overlap(box: XYXY, other: XYXY, *, of_box: bool) -> float:
    """IoU, or for a crowd region the fraction of the box inside it; computed from widths, as the evaluators do."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (box[2] - box[0]) * (box[3] - box[1])
    union = area if of_box else area + (other[2] - other[0]) * (other[3] - other[1]) - width * height
    return width * height / union


def _weighted_ap(matches: _ClassMatches, weights: Weights) -> Any:
    """AP at each threshold if each image counts as often as its weight; None without targets."""
    total = float(weights @ matches.targets)
    if not total:
        return None
    each = weights[matches.images]
    found = np.cumsum(matches.hits * each, axis=1)
    false = np.cumsum((~matches.hits & ~matches.ignored) * each, axis=1)
    recall = found / total
    precision = found / np.maximum(found + false, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.zeros(len(COCO_IOU_THRESHOLDS))
    for row in np.flatnonzero(matches.hits.any(axis=1)):  # without a hit, the AP is 0
        at = np.searchsorted(recall[row], _RECALLS, side="left")
        inside = at < recall.shape[1]
        result[row] = envelope[row, at[inside]].sum() / len(_RECALLS)
    return result
