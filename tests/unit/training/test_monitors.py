"""Monitors read the metrics of a run and raise an alarm when a problem begins."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from virft.config.schema import MonitorsConfig
from virft.training.monitors import Alarm, HealthMonitors, RewardParts, all_finite, is_finite
from virft.training.step import NonFinite

FINE = {"reward": 1.0, "kl": 0.1, "completion_tokens": 20.0, "entropy": 0.5, "nonzero_std_frac": 0.8}


def alarms_of(records: Iterable[Mapping[str, float]], **settings: Any) -> dict[int, list[Alarm]]:
    """The alarms by the index of the record that they begin with, over windows of 2 steps."""
    monitors = HealthMonitors(MonitorsConfig(**{"window": 2} | settings))
    found = {place: monitors.add(record) for place, record in enumerate(records)}
    return {place: alarms for place, alarms in found.items() if alarms}


def steps(*changes: Mapping[str, float]) -> list[dict[str, float]]:
    return [{"step": number, **FINE, **change} for number, change in enumerate(changes)]


def score(value: float) -> dict[str, float]:
    return {"step": 0, "validation_score": value}


def test_a_healthy_run_raises_no_alarm() -> None:
    records = [score(0.3), *steps(*[{}] * 50), score(0.4), *steps(*[{"reward": 1.5}] * 50), score(0.5)]
    assert alarms_of(records, window=10) == {}


def test_kl_is_a_mean_over_the_window() -> None:
    # means of two: 0.1, 5.05, 10.05, 10.05
    found = alarms_of(steps({}, {}, {"kl": 10.0}, {"kl": 10.1}, {"kl": 10.0}), max_kl=10.0)
    assert list(found) == [3]
    assert found[3] == [
        Alarm(
            monitor="kl",
            observed={"kl": 10.05},
            message="mean KL is 10.1 nats per token over 2 steps, above monitors.max_kl = 10",
        )
    ]


def test_an_alarm_is_raised_again_only_after_its_condition_was_false() -> None:
    high, low = {"kl": 11.0}, {"kl": 0.0}
    assert list(alarms_of(steps(high, high, high, low, low, high, high))) == [1, 6]


def test_growing_completions_are_compared_with_the_first_ones() -> None:
    long = {"completion_tokens": 81.0}
    # at first 20, then (20 + 81) / 2, then 81 > 4 x 20
    found = alarms_of(steps({}, {}, long, long))
    assert [alarm.message for alarm in found[3]] == [
        "mean completion length is 81 tokens over 2 steps, 20 at the start; the ratio is above "
        "monitors.max_length_ratio = 4"
    ]
    assert found[3][0].observed == {"tokens": 81.0, "tokens_at_start": 20.0}


def test_collapsing_entropy_is_compared_with_the_first_one() -> None:
    found = alarms_of(steps({}, {}, {"entropy": 0.04}, {"entropy": 0.06}, {"entropy": 0.039}))
    # (0.04 + 0.06) / 2 = 0.05 is not less than 0.1 x 0.5
    assert [(place, alarm.monitor, alarm.observed) for place, (alarm,) in found.items()] == [
        (4, "entropy", {"entropy": pytest.approx(0.0495), "entropy_at_start": 0.5})
    ]


def test_consecutive_steps_with_zero_reward_variance_are_counted() -> None:
    equal = {"nonzero_std_frac": 0.0}
    found = alarms_of(steps(equal, equal, {}, equal, equal, equal, equal), max_zero_std_steps=3)
    assert [(place, alarm.message) for place, (alarm,) in found.items()] == [
        (5, "zero reward variance in every group for 3 steps: all their advantages are 0")
    ]


@pytest.mark.parametrize("monitor", ["unreadable", "truncated"])
def test_fractions_of_bad_completions_are_means_over_the_window(monitor: str) -> None:
    name = f"{monitor}_frac"
    found = alarms_of(steps({name: 0.0}, {name: 1.0}, {name: 0.2}))
    # 0.5 is not more than 0.5; (1 + 0.2) / 2 is
    assert [(place, alarm.message) for place, (alarm,) in found.items()] == [
        (2, f"60% of completions are {monitor} over 2 steps, above monitors.max_{monitor}_frac = 0.5")
    ]


def test_completions_whose_numbers_are_all_at_most_1_are_an_alarm() -> None:
    found = alarms_of(steps({"at_most_1_frac": 0.0}, {"at_most_1_frac": 0.2}, {"at_most_1_frac": 0.2}))
    assert [(place, alarm.message) for place, (alarm,) in found.items()] == [
        (
            2,
            "20% of completions have all numbers at most 1 (fractions of the image, so they are unreadable) over 2 "
            "steps, above monitors.max_at_most_1_frac = 0.1",
        )
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
    found = alarms_of(records)
    assert [(place, alarm.monitor, alarm.message) for place, (alarm,) in found.items()] == [
        (
            9,
            "reward_hacking",
            "the validation score fell from 0.400 to 0.340 while the mean reward rose from 1.000 to 1.400",
        )
    ]
    assert found[9][0].observed == {"score": 0.34, "best_score": 0.4, "reward": 1.4, "best_reward": 1.0}


def test_if_the_base_model_is_best_the_first_steps_are_the_baseline() -> None:
    records = [score(0.5), *steps({}, {}, {"reward": 1.3}, {"reward": 1.3}), score(0.4)]
    assert [alarm.monitor for alarm in alarms_of(records)[5]] == ["reward_hacking"]


def test_a_score_that_falls_with_the_reward_is_no_alarm() -> None:
    records = [score(0.5), *steps({}, {}, {"reward": 1.04}, {"reward": 1.04}), score(0.1)]
    assert alarms_of(records) == {}


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("boxes_per_answer", 1.5, 3.0, "the mean number of boxes of an answer rose from 1.500 to 3.000"),
        ("duplicate_frac", 0.0, 0.2, "the fraction of duplicate boxes rose from 0.000 to 0.200"),
    ],
)
def test_boxes_that_rise_while_the_score_falls_are_an_alarm(name: str, before: float, after: float, words: str) -> None:
    first, then = {name: before}, {name: after}
    found = alarms_of([score(0.4), *steps(first, first), score(0.5), *steps(then, then), score(0.4)])
    assert [(alarm.monitor, alarm.message) for alarm in found[6]] == [
        ("boxes", f"the validation score fell from 0.500 to 0.400 while {words}")
    ]


@pytest.mark.parametrize(
    ("records", "off"),
    [
        (steps(*[{"kl": 99.0}] * 3), "max_kl"),
        (steps({}, {}, *[{"completion_tokens": 999.0}] * 2), "max_length_ratio"),
        (steps({}, {}, *[{"entropy": 0.0}] * 2), "min_entropy_ratio"),
        (steps(*[{"nonzero_std_frac": 0.0}] * 20), "max_zero_std_steps"),
        (steps(*[{"unreadable_frac": 1.0}] * 2), "max_unreadable_frac"),
        (steps(*[{"truncated_frac": 1.0}] * 2), "max_truncated_frac"),
        ([score(0.5), *steps({}, {}), *steps(*[{"reward": 9.0}] * 2), score(0.0)], "max_score_drop"),
    ],
)
def test_each_monitor_can_be_disabled(records: list[dict[str, float]], off: str) -> None:
    assert len(alarms_of(records)) == 1
    assert alarms_of(records, **{off: 0}) == {}


def test_the_state_of_monitors_is_a_function_of_the_records() -> None:
    records = [score(0.5), *steps({}, {}, *[{"reward": 2.0, "kl": 20.0}] * 3), score(0.3), *steps({}, {"kl": 30.0})]
    whole = alarms_of(records)
    assert whole
    for cut in range(len(records)):
        monitors = HealthMonitors(MonitorsConfig(window=2))
        for record in records[:cut]:
            monitors.add(record)
        after = {cut + place: alarms for place, record in enumerate(records[cut:]) if (alarms := monitors.add(record))}
        assert after == {place: alarms for place, alarms in whole.items() if place >= cut}


def test_consecutive_skipped_steps_are_counted_and_have_no_metrics() -> None:
    monitors = HealthMonitors(MonitorsConfig(window=2))
    counts = []
    for record in ({"step": 0, **FINE}, {"step": 1, "skipped": 1}, {"step": 2, "skipped": 1}, {"step": 3, "loss": 0.1}):
        assert monitors.add(record) == []
        counts.append(monitors.num_skipped)
    assert counts == [0, 1, 2, 0]


def test_many_samples_are_not_all_named() -> None:
    found = NonFinite(what="gradient norm", samples=tuple("abcdefghij"))
    assert found.describe() == "gradient norm is not a finite number (samples a, b, c, d, e, f, g, h, ..)"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_trained_weights_are_checked(value: float) -> None:
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


IOU = RewardParts(accuracy={"iou": (0.0, 1.0)})
RECORDED = Path(__file__).parents[2] / "data" / "monitored_runs"


def accuracy_alarms(*changes: Mapping[str, float], parts: RewardParts = IOU, **settings: Any) -> list[tuple[int, str]]:
    """(index of the record, message) of the alarms about accuracy, over windows of 2 steps."""
    monitors = HealthMonitors(MonitorsConfig(**{"window": 2} | settings), parts)
    found = [(place, alarm) for place, record in enumerate(steps(*changes)) for alarm in monitors.add(record)]
    return [(place, alarm.message) for place, alarm in found if alarm.monitor == "accuracy"]


def rewards(iou: float, confidence: float, *, weight: float = 1.0) -> dict[str, float]:
    return {"reward": iou + weight * confidence, "reward_iou": iou, "reward_confidence": confidence}


def test_a_reward_that_rises_without_accuracy_is_reported_once() -> None:
    before, after = rewards(0.03, -0.6), rewards(0.03, -0.4)
    ((place, message),) = accuracy_alarms(*[before] * 4, *[after] * 4)
    assert place == 5
    assert message.startswith(
        "the mean reward rose from -0.570 to -0.370, all of it in `confidence`; `iou` is flat at 0.03: the answers "
        "come no closer to the ground truth."
    )


def test_a_part_that_measures_accuracy_and_rises_raises_no_alarm() -> None:
    # a tenth of the rise of 0.2
    assert accuracy_alarms(*[rewards(0.03, -0.6)] * 4, *[rewards(0.05, -0.42)] * 4) == []
    assert accuracy_alarms(*[rewards(0.03, -0.6)] * 4, *[rewards(0.049, -0.419)] * 4) != []


def test_a_part_in_the_upper_half_of_its_range_need_not_rise() -> None:
    assert accuracy_alarms(*[rewards(0.6, -0.6)] * 4, *[rewards(0.6, -0.2)] * 4) == []


def test_one_of_several_accurate_parts_is_enough() -> None:
    parts = RewardParts(accuracy={"iou": (0.0, 1.0), "label": (0.0, 1.0)})
    flat, rising = rewards(0.1, 0.0) | {"reward_label": 0.1}, {"reward": 0.3, "reward_iou": 0.1, "reward_label": 0.3}
    assert accuracy_alarms(*[flat] * 4, *[rising] * 4, parts=parts) == []


def test_a_part_of_weight_0_is_not_expected_to_rise() -> None:
    parts = RewardParts(accuracy={"iou": (0.0, 1.0)}, weights={"iou": 0.0})
    assert accuracy_alarms(*[rewards(0.03, -0.6)] * 4, *[rewards(0.03, -0.2)] * 4, parts=parts) == []


def test_the_accuracy_check_can_be_disabled() -> None:
    assert accuracy_alarms(*[rewards(0.03, -0.6)] * 4, *[rewards(0.03, -0.2)] * 4, min_accuracy_frac=0.0) == []


def test_a_rise_within_the_noise_of_the_reward_raises_no_alarm() -> None:
    # means of two -0.57 and -0.47, standard error of the difference 0.14
    noisy = [rewards(0.03, value) for value in (-0.7, -0.5, -0.6, -0.4)]
    assert accuracy_alarms(*noisy) == []


def recorded_alarms(name: str) -> list[tuple[int, str]]:
    records = [json.loads(line) for line in (RECORDED / name).read_text().splitlines()]
    monitors = HealthMonitors(MonitorsConfig(), IOU)
    return [(record["step"], alarm.monitor) for record in records for alarm in monitors.add(record)]


def test_the_alarm_begins_in_a_recorded_run_that_taught_nothing_and_in_no_other() -> None:
    # virft-tiny on 16 photographs of raccoons with the settings of a model of 2 billion parameters: F1 0.022 -> 0.022
    assert recorded_alarms("raccoon_rate_1e-6.jsonl") == [(64, "accuracy")]
    # GRPO of `make demo`: F1 of new classes 0.270 -> 0.350
    assert recorded_alarms("quickstart.jsonl") == []


def collapsed(answer: float, target: float = 0.1) -> dict[str, float]:
    return {"common_answer_frac": answer, "common_target_frac": target}


def test_answers_collapse_if_more_images_have_the_same_answer_than_the_same_target() -> None:
    found = alarms_of(steps(collapsed(0.2), collapsed(0.2), collapsed(0.9), collapsed(0.9), collapsed(0.9)))
    ((place, (alarm,)),) = found.items()
    # (0.2 + 0.9) / 2 - 0.1 = 0.45
    assert (place, alarm.monitor) == (2, "collapse")
    assert alarm.message.startswith("the answers collapse: 55% of the images get the same answer (sampled answers over")
    assert "while 10% have the same ground truth" in alarm.message


def test_a_collapse_ends_only_well_below_its_limit() -> None:
    fractions = (0.6, 0.6, 0.4, 0.4, 0.6, 0.6, 0.2, 0.2, 0.6, 0.6)
    assert list(alarms_of(steps(*map(collapsed, fractions)))) == [1, 9]


def test_equal_answers_to_equal_targets_are_no_collapse() -> None:
    assert alarms_of(steps(*[collapsed(1.0, target=0.7)] * 5)) == {}


def test_a_collapse_in_validation_is_reported_once_and_names_the_dataset() -> None:
    records = [
        {"step": 0, "validation_score": 0.5} | {f"validation_{name}@rbc": value for name, value in fracs.items()}
        for fracs in (collapsed(0.3), collapsed(0.9), collapsed(0.9))
    ]
    found = alarms_of([records[0], *steps({}), records[1], *steps({}), records[2]])
    ((place, (alarm,)),) = found.items()
    assert place == 2
    assert "90% of the images get the same answer (validation@rbc)" in alarm.message
    assert alarms_of(records, max_common_answer_frac=0.0) == {}
