"""Expected time of a run: the steps that are measured, and those that only warm up."""

from __future__ import annotations

import pytest

from virft.recipes import estimate
from virft.recipes.estimate import time_steps


class Clock:
    """A clock that only steps advance."""

    def __init__(self, *seconds: float) -> None:
        self.now = 100.0
        self.numbers: list[int] = []
        self._seconds = iter(seconds)

    def perf_counter(self) -> float:
        return self.now

    def step(self, number: int) -> None:
        self.now += next(self._seconds)
        self.numbers.append(number)


@pytest.mark.parametrize(
    ("durations", "measured", "numbers"),
    [
        ((9.0, 4.0, 2.0, 3.0, 1.0), [4.0, 2.0, 3.0], [0, 0, 1, 2]),
        # 25 + 20 + 20 > 60: no third one
        ((25.0, 20.0, 1.0), [20.0], [0, 0]),
        ((40.0, 1.0), [40.0], [0]),
    ],
)
def test_the_first_step_is_not_measured_unless_it_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch, durations: tuple[float, ...], measured: list[float], numbers: list[int]
) -> None:
    clock = Clock(*durations)
    monkeypatch.setattr(estimate, "time", clock)
    assert time_steps(clock.step) == measured
    assert clock.numbers == numbers
