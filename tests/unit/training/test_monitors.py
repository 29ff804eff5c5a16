"""Guards look at the numbers of a run, and say when something begins to go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from virft.training.monitors import Alarm, GuardSettings, NonFinite, Watch, all_finite, is_finite

FINE = {"reward": 1.0, "kl": 0.1, "completion_tokens": 20.0, "entropy": 0.5, "spread_frac": 0.8}


def watch(records: Iterable[Mapping[str, float]], **settings: Any) -> dict[int, list[Alarm]]:
    """The alarms by the place of the record that they begin with, over windows of 2 steps."""
    guards = Watch(GuardSettings(**{"window": 2} | settings))
    found = {place: guards.add(record) for place, record in enumerate(records)}
    return {place: alarms for place, alarms in found.items() if alarms}


def steps(*changes: Mapping[str, float]) -> list[dict[str, float]]:
    return [{"step": number, **FINE, **change} for number, change in enumerate(changes)]


def score(value: float) -> dict[str, float]:
    return {"step": 0, "validation_score": value}


def test_a_run_that_goes_well_raises_nothing() -> None:
    records = [score(0.3), *steps(*[{}] * 50), score(0.4), *steps(*[{"reward": 1.5}] * 50), score(0.5)]
    assert watch(records, window=10) == {}


def test_kl_is_a_mean_over_the_window() -> None:
    # means of two: 0.1, 5.05, 10.05, 10.05
    found = watch(steps({}, {}, {"kl": 10.0}, {"kl": 10.1}, {"kl": 10.0}), max_kl=10.0)
    assert list(found) == [3]
    assert found[3] == [
        Alarm(
            guard="kl",
            saw={"kl": 10.05},
            told="KL is 10.1 nats a token over 2 steps; more than guards.max_kl = 10",
        )
    ]


def test_an_alarm_is_raised_again_only_when_its_cause_was_gone() -> None:
    high, low = {"kl": 11.0}, {"kl": 0.0}
    assert list(watch(steps(high, high, high, low, low, high, high))) == [1, 6]


def test_completions_that_run_away_are_held_against_the_first_ones() -> None:
    long = {"completion_tokens": 81.0}
    # at first 20, then (20 + 81) / 2, then 81 > 4 x 20
    found = watch(steps({}, {}, long, long))
    assert [alarm.told for alarm in found[3]] == [
        "completions have 81 tokens over 2 steps, at the beginning 20; more than 4 times as many "
        "(guards.max_length_ratio)"
    ]
    assert found[3][0].saw == {"tokens": 81.0, "tokens_at_first": 20.0}


def test_entropy_that_collapses_is_held_against_the_first_one() -> None:
    found = watch(steps({}, {}, {"entropy": 0.04}, {"entropy": 0.06}, {"entropy": 0.039}))
    # (0.04 + 0.06) / 2 = 0.05 is not less than 0.1 x 0.5
    assert [(place, alarm.guard, alarm.saw) for place, (alarm,) in found.items()] == [
        (4, "entropy", {"entropy": pytest.approx(0.0495), "entropy_at_first": 0.5})
    ]


def test_steps_without_spread_are_counted_in_a_row() -> None:
    equal = {"spread_frac": 0.0}
    found = watch(steps(equal, equal, {}, equal, equal, equal, equal), max_equal_steps=3)
    assert [(place, alarm.told) for place, (alarm,) in found.items()] == [
        (5, "in 3 steps no group's rewards differed: nothing is learnt")
    ]


@pytest.mark.parametrize("guard", ["unreadable", "truncated"])
def test_shares_of_bad_answers_are_means_over_the_window(guard: str) -> None:
    name = f"{guard}_frac"
    found = watch(steps({name: 0.0}, {name: 1.0}, {name: 0.2}))
    # 0.5 is not more than 0.5; (1 + 0.2) / 2 is
    assert [(place, alarm.told) for place, (alarm,) in found.items()] == [
        (2, f"60% of the answers are {guard} over 2 steps; more than guards.max_{guard}_frac = 0.5")
    ]


def test_a_reward_that_rises_while_the_score_falls_is_an_alarm() -> None:
    records = [
        score(0.30),
        *steps({}, {}),
        score(0.40),
        *steps({"reward": 1.2}, {"reward": 1.3}),
        score(0.36),  # 0.04 below the best
        *steps({"reward": 1.4}, {"reward": 1.4}),
        score(0.34),
    ]
    found = watch(records)
    assert [(place, alarm.guard, alarm.told) for place, (alarm,) in found.items()] == [
        (9, "gaming", "the validation score fell from 0.400 to 0.340 while the reward rose from 1.000 to 1.400")
    ]
    assert found[9][0].saw == {"score": 0.34, "best_score": 0.4, "reward": 1.4, "best_reward": 1.0}


def test_where_the_untrained_model_was_best_the_first_steps_are_compared_with() -> None:
    records = [score(0.5), *steps({}, {}, {"reward": 1.3}, {"reward": 1.3}), score(0.4)]
    assert [alarm.guard for alarm in watch(records)[5]] == ["gaming"]


def test_a_score_that_falls_with_the_reward_is_no_alarm() -> None:
    records = [score(0.5), *steps({}, {}, {"reward": 1.04}, {"reward": 1.04}), score(0.1)]
    assert watch(records) == {}


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("boxes_per_answer", 1.5, 3.0, "the boxes of an answer rose from 1.500 to 3.000"),
        ("duplicate_frac", 0.0, 0.2, "the share of boxes that repeat another rose from 0.000 to 0.200"),
    ],
)
def test_boxes_that_rise_while_the_score_falls_are_an_alarm(name: str, before: float, after: float, words: str) -> None:
    first, then = {name: before}, {name: after}
    found = watch([score(0.4), *steps(first, first), score(0.5), *steps(then, then), score(0.4)])
    assert [(alarm.guard, alarm.told) for alarm in found[6]] == [
        ("boxes", f"the validation score fell from 0.500 to 0.400 while {words}")
    ]


@pytest.mark.parametrize(
    ("records", "off"),
    [
        (steps(*[{"kl": 99.0}] * 3), "max_kl"),
        (steps({}, {}, *[{"completion_tokens": 999.0}] * 2), "max_length_ratio"),
        (steps({}, {}, *[{"entropy": 0.0}] * 2), "min_entropy_ratio"),
        (steps(*[{"spread_frac": 0.0}] * 20), "max_equal_steps"),
        (steps(*[{"unreadable_frac": 1.0}] * 2), "max_unreadable_frac"),
        (steps(*[{"truncated_frac": 1.0}] * 2), "max_truncated_frac"),
        ([score(0.5), *steps({}, {}), *steps(*[{"reward": 9.0}] * 2), score(0.0)], "max_score_drop"),
    ],
)
def test_each_guard_can_be_switched_off(records: list[dict[str, float]], off: str) -> None:
    assert len(watch(records)) == 1
    assert watch(records, **{off: 0}) == {}


def test_what_a_guard_knows_comes_from_the_records_alone() -> None:
    records = [score(0.5), *steps({}, {}, *[{"reward": 2.0, "kl": 20.0}] * 3), score(0.3), *steps({}, {"kl": 30.0})]
    whole = watch(records)
    assert whole
    for cut in range(len(records)):
        guards = Watch(GuardSettings(window=2))
        for record in records[:cut]:
            guards.add(record)
        after = {cut + place: alarms for place, record in enumerate(records[cut:]) if (alarms := guards.add(record))}
        assert after == {place: alarms for place, alarms in whole.items() if place >= cut}


def test_skipped_steps_are_counted_in_a_row_and_their_numbers_left_out() -> None:
    guards = Watch(GuardSettings(window=2))
    counts = []
    for record in ({"step": 0, **FINE}, {"step": 1, "skipped": 1}, {"step": 2, "skipped": 1}, {"step": 3, "loss": 0.1}):
        assert guards.add(record) == []
        counts.append(guards.num_skipped)
    assert counts == [0, 1, 2, 0]


def test_many_samples_are_not_all_named() -> None:
    found = NonFinite(what="gradient norm", samples=tuple("abcdefghij"))
    assert found.in_words() == "gradient norm is not a finite number (samples a, b, c, d, e, f, g, h, ..)"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_are_looked_at_where_they_are_trained(value: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    assert is_finite(model)
    with torch.no_grad():
        model[1].weight[0, 0] = value
    assert is_finite(model)
    with torch.no_grad():
        model[0].bias[1] = value
    assert not is_finite(model)


def test_numbers_are_finite_or_not() -> None:
    assert all_finite([0.0, -1.5]) and all_finite([])
    assert not all_finite([0.0, math.nan])
