"""Learning curves: the score of a trained model as a function of its number of training images.

score(n) = limit - slope / sqrt(n). Of the power laws, this exponent describes image classifiers best, and with it the
fit is linear and possible with few points. Source: Hoiem et al., Learning Curves for Analysis of Deep Networks, 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virft.metrics.bootstrap import COVERAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningCurve:
    """A fitted curve; ``limit`` is the score with unlimited images, ``slope`` above 0 if more images help."""

    limit: float
    slope: float

    def score(self, num_images: float) -> float:
        """Return the score in [0, 1] with this number of images, above 0.

        >>> round(LearningCurve(limit=0.6, slope=0.8).score(16), 6)
        0.4
        """
        return float(min(1.0, max(0.0, self.limit - self.slope / num_images**0.5)))


def fit_curve(num_images: Sequence[int], scores: Sequence[float]) -> LearningCurve:
    """Return the least-squares curve through at least two different numbers of images.

    >>> found = fit_curve([4, 16, 64], [0.2, 0.4, 0.5])
    >>> round(found.limit, 6), round(found.slope, 6)
    (0.6, 0.8)
    """
    inverse = np.asarray(num_images, dtype=np.float64) ** -0.5
    slope, limit = np.polyfit(inverse, np.asarray(scores, dtype=np.float64), 1)
    return LearningCurve(limit=float(limit), slope=float(-slope))


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Trained models with one number of training images.

    ``scores``: of each seed. ``resampled``: the same on bootstrap resamples of the evaluation images, [seeds,
    resamples]; the resamples are the same for all points.
    """

    num_images: int
    scores: tuple[float, ...]
    resampled: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return float(np.mean(self.scores))


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrapolation:
    """Expected score with a larger number of training images, and its 95 % confidence interval."""

    num_images: int
    value: float
    low: float
    high: float
    slope_low: float
    """Lower end of the confidence interval of the slope."""

    @property
    def helps(self) -> bool:
        """True if the confidence interval of the slope is above 0: more images help."""
        return self.slope_low > 0


class FittedCurve:
    """A curve through measured points, and curves through resampled points, from which confidence intervals follow.

    Resampled are the evaluation images (the same ones for all points) and the seeds. With three or more points, each
    resampled point also deviates by a normal random number with the standard deviation of the residuals, n - 2 degrees
    of freedom: part of the randomness of training, also with one seed.
    """

    def __init__(self, points: Sequence[CurvePoint], *, seed: int = 0) -> None:
        """``points``: at least two with different numbers of images."""
        sizes = [point.num_images for point in points]
        rng = np.random.Generator(np.random.PCG64(seed))
        self.curve = fit_curve(sizes, [point.mean for point in points])
        freedom = len(points) - 2
        deviation = self.residual(points) * (len(points) / freedom) ** 0.5 if freedom > 0 else 0.0
        drawn = [_draw(point.resampled, rng) + rng.normal(0, deviation, point.resampled.shape[1]) for point in points]
        self._resampled = [fit_curve(sizes, values) for values in zip(*drawn, strict=True)]

    def extrapolate(self, num_images: int) -> Extrapolation:
        """Return the expected score with this number of images."""
        low, high = _middle([curve.score(num_images) for curve in self._resampled])
        slope_low, _ = _middle([curve.slope for curve in self._resampled])
        return Extrapolation(
            num_images=num_images, value=self.curve.score(num_images), low=low, high=high, slope_low=slope_low
        )

    def residual(self, points: Sequence[CurvePoint]) -> float:
        """Return the root mean square of the differences between points and curve."""
        return float(np.sqrt(np.mean([(point.mean - self.curve.score(point.num_images)) ** 2 for point in points])))


def point_interval(point: CurvePoint) -> tuple[float, float]:
    """Return the 95 % confidence interval of a point's mean score, resampling evaluation images and seeds."""
    return _middle(_draw(point.resampled, np.random.Generator(np.random.PCG64(0))).tolist())


def _draw(resampled: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean over seeds that are drawn with replacement, anew in each resample: [seeds, resamples] -> [resamples]."""
    num_seeds, num_resamples = resampled.shape
    chosen = rng.integers(num_seeds, size=(num_seeds, num_resamples))
    drawn: NDArray[np.float64] = np.take_along_axis(resampled, chosen, axis=0)
    return np.asarray(drawn.mean(axis=0))


def _middle(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
