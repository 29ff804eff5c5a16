"""Expected time of a run: the steps that are measured, and those that only warm up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from run_parts import make_config
from virft.config.schema import DataConfig, GRPOConfig
from virft.recipes import estimate
from virft.recipes.estimate import Cost, SecondsRange, cost_lines, time_steps
from virft.recipes.preflight import CheckedRun

COST = Cost(
    step=SecondsRange(2.0, 3.0),
    measured="3 steps measured",
    tokens_per_step=1000,
    prompt_tokens=34,
    image_tokens=12,
    completion_tokens=29,
    validation=SecondsRange(4.0, 5.0),
    warm_start=SecondsRange(0.5, 0.75),
    tokens_per_warm_step=100,
)


def run(grpo: GRPOConfig, *, validate_every: int | None = None) -> CheckedRun:
    config = make_config(grpo=grpo)
    if validate_every is not None:
        config = replace(config, data=DataConfig(train="d", validation="v", validate_every=validate_every))
    validation: Any = {} if validate_every is None else {"": None}
    data: Any = None
    return CheckedRun(config=config, method="grpo", resume=False, data=data, validation=validation)


def test_steps_of_a_warm_start_have_a_cost_of_their_own() -> None:
    time, tokens, _ = cost_lines(COST, run(GRPOConfig(steps=80, warm_start_steps=40), validate_every=40))
    # 40 x 0.5 + 40 x 2 + 3 x 4 seconds; 40 x 0.75 + 40 x 3 + 3 x 5
    assert time == (
        "time    1:52 to 2:45 for 80 steps (2.0 to 3.0 s a step, 3 steps measured; 0.5 to 0.8 s in the 40 of the warm "
        "start; 3 validations of 0:04 to 0:05 each)"
    )
    # 40 x 100 + 40 x 1000
    assert tokens.startswith("tokens  44,000, 1,000 a step: prompts of 34 (12 image tokens), completions of 29")
    time, tokens, _ = cost_lines(COST, run(GRPOConfig(steps=80)))
    assert time == "time    2:40 to 4:00 for 80 steps (2.0 to 3.0 s a step, 3 steps measured)"
    assert tokens.startswith("tokens  80,000, ")


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
