"""Bootstrap confidence intervals over images.

Images are resampled with replacement; the questions about an image stay together, since they are not independent.
Source: Efron 1979; intervals are percentiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from virft.metrics.box_matching import ORDERS, BoxQuestion, match_class, precision_at_recalls
from virft.metrics.detection import COCO_IOU_THRESHOLDS

RESAMPLES = 200
COVERAGE = 0.95
_ORDERS = 4
"""Number of orders of boxes with equal scores in each resample, which has orders of its own."""

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


def ap_statistic(questions: Sequence[BoxQuestion], *, images: Sequence[str]) -> Statistic:
    """Return ``ap`` and ``ap50`` as a function of resampled images; boxes are matched only once.

    With every image drawn once the values are those of ``average_precision``. ``images``: order of the weights.
    """
    number = {name: at for at, name in enumerate(images)}
    by_label: dict[str, list[BoxQuestion]] = {}
    for one in questions:
        by_label.setdefault(one.label, []).append(one)
    classes = [match_class(held, number) for _, held in sorted(by_label.items())]

    def statistic(weights: Weights) -> dict[str, float]:
        # Few orders in each resample, but other ones: their random errors average out.
        orders, seed = (ORDERS, 0) if (weights == 1).all() else (_ORDERS, crc32(weights.tobytes()))
        every = (precision_at_recalls(matches, weights, orders=orders, seed=seed) for matches in classes)
        found = [one for one in every if one is not None]
        by_threshold = np.mean(found, axis=(0, 2)) if found else np.zeros(len(COCO_IOU_THRESHOLDS))
        return {"ap": float(by_threshold.mean()), "ap50": float(by_threshold[0])}

    return statistic
