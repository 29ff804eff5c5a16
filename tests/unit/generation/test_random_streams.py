"""Random streams follow from their key: a completion does not depend on what else is sampled."""

from __future__ import annotations

import numpy as np

from virft.generation.random_streams import StepKey

KEY = StepKey(seed=1, step=2)


def test_numbers_are_uniform_in_0_1() -> None:
    numbers = KEY.uniforms("a", 0, 10000)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    # standard deviation of the mean: sqrt(1 / 12 / 10000) = 0.003
    assert abs(numbers.mean() - 0.5) < 0.015


def test_each_part_of_the_key_changes_the_stream() -> None:
    keys = [
        (StepKey(seed=s, step=t), id, g) for s in (1, 2) for t in (1, 2) for id in ("a", "b", "1/a") for g in (1, 2, 11)
    ]
    firsts = {float(key.uniforms(id, g, 1)[0]) for key, id, g in keys}
    assert len(firsts) == 36


def test_a_longer_stream_begins_with_the_shorter_one() -> None:
    assert np.array_equal(KEY.uniforms("a", 3, 100)[:7], KEY.uniforms("a", 3, 7))


def test_the_numbers_are_pinned() -> None:
    # NumPy guarantees the numbers of Philox across versions; a change here would change every resumed run
    assert KEY.uniforms("a", 0, 3).round(6).tolist() == [0.26669, 0.004645, 0.714882]
