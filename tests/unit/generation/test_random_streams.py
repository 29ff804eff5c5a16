"""Noise has a key: a completion is the same whatever else is drawn."""

from __future__ import annotations

import numpy as np

from virft.generation.random_streams import StepKey

KEY = StepKey(seed=1, step=2)


def test_numbers_lie_in_0_1_and_are_spread_evenly() -> None:
    numbers = KEY.uniforms("a", 0, 10000)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    # standard deviation of the mean: sqrt(1 / 12 / 10000) = 0.003
    assert abs(numbers.mean() - 0.5) < 0.015


def test_every_part_of_the_key_matters() -> None:
    keys = [
        (StepKey(seed=s, step=t), id, g) for s in (1, 2) for t in (1, 2) for id in ("a", "b", "1/a") for g in (1, 2, 11)
    ]
    firsts = {float(key.uniforms(id, g, 1)[0]) for key, id, g in keys}
    assert len(firsts) == 36


def test_a_longer_limit_does_not_change_what_comes_before() -> None:
    assert np.array_equal(KEY.uniforms("a", 3, 100)[:7], KEY.uniforms("a", 3, 7))


def test_the_numbers_stay_the_same_for_ever() -> None:
    # NumPy keeps the words of Philox the same in every version; a change here would change every resumed run
    assert KEY.uniforms("a", 0, 3).round(6).tolist() == [0.26669, 0.004645, 0.714882]
