"""Learning curves: fit, intervals and extrapolation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.metrics.learning_curve import CurvePoint, FittedCurve, fit_curve, point_interval


def point(num_images: int, *scores: float, width: float = 0.0) -> CurvePoint:
    """A point whose resamples are evenly spaced around the score of each seed."""
    offsets = np.linspace(-width, width, 41)
    return CurvePoint(num_images=num_images, scores=scores, resampled=np.array([score + offsets for score in scores]))


@given(st.floats(0.3, 0.9), st.floats(0.0, 0.5), st.lists(st.integers(1, 1000), min_size=2, unique=True))
def test_points_on_a_curve_give_that_curve(limit: float, slope: float, sizes: list[int]) -> None:
    found = fit_curve(sizes, [limit - slope / size**0.5 for size in sizes])
    # sizes of 999 and 1000 hardly determine a slope
    assert found.score(max(sizes)) == pytest.approx(min(1, max(0, limit - slope / max(sizes) ** 0.5)), abs=1e-6)


def test_twice_the_images_are_on_the_curve() -> None:
    # 0.6 - 0.8 / sqrt(n)
    fitted = FittedCurve([point(4, 0.2), point(16, 0.4), point(64, 0.5)])
    found = fitted.extrapolate(128)
    assert found.value == pytest.approx(0.6 - 0.8 / 128**0.5)
    assert found.low == pytest.approx(found.high)
    assert found.helps
    assert fitted.residual([point(4, 0.2), point(16, 0.4), point(64, 0.5)]) == pytest.approx(0, abs=1e-9)


def test_scores_are_never_outside_0_and_1() -> None:
    steep = fit_curve([4, 16], [0.0, 0.9])
    assert (steep.score(1), steep.score(10_000)) == (0.0, 1.0)


def test_intervals_follow_the_resamples_of_images() -> None:
    # 0.6 - 0.8 / sqrt(n)
    fitted = FittedCurve([point(4, 0.2, width=0.1), point(16, 0.4, width=0.1), point(64, 0.5, width=0.1)])
    found = fitted.extrapolate(64)
    # all points move together, as they are evaluated on the same images: the whole curve shifts by -0.1 to 0.1
    assert found.low == pytest.approx(found.value - 0.095, abs=0.006)
    assert found.high == pytest.approx(found.value + 0.095, abs=0.006)
    assert found.helps
    assert point_interval(point(8, 0.30, width=0.1)) == pytest.approx((0.205, 0.395))


def test_points_that_are_not_on_the_curve_widen_the_interval() -> None:
    exact = FittedCurve([point(4, 0.2), point(16, 0.4), point(64, 0.5)]).extrapolate(128)
    apart = FittedCurve([point(4, 0.2), point(16, 0.45), point(64, 0.5)]).extrapolate(128)
    assert exact.high - exact.low == pytest.approx(0, abs=1e-6)
    assert apart.high - apart.low > 0.05


def test_a_flat_curve_does_not_help() -> None:
    flat = [point(8, 0.40), point(16, 0.40), point(32, 0.40)]
    assert not FittedCurve(flat).extrapolate(64).helps
    falling = [point(8, 0.45), point(16, 0.42), point(32, 0.40)]
    assert not FittedCurve(falling).extrapolate(64).helps


def test_seeds_that_disagree_widen_the_interval() -> None:
    alike = FittedCurve([point(8, 0.30, 0.30), point(32, 0.40, 0.40)]).extrapolate(64)
    apart = FittedCurve([point(8, 0.25, 0.35), point(32, 0.35, 0.45)]).extrapolate(64)
    assert apart.value == pytest.approx(alike.value)
    assert apart.high - apart.low > alike.high - alike.low + 0.05
