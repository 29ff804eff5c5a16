"""Run logs become charts: no metric is dropped, fluctuations are smoothed, spikes stay."""

from __future__ import annotations

import random
from typing import Any

import pytest

from virft.report.render.curves import MAIN, MOST_POINTS, ChartGroup, CurvePoints, chart_groups, smoothed, thinned
from virft.report.render.reported import ReportedRun, ReportedSystem


def system(name: str, *metrics: dict[str, Any], timings: Any = ()) -> ReportedSystem:
    run = ReportedRun(name=name, folder=name, metrics=metrics, timings=timings)
    return ReportedSystem(name=name, runs=(run,))


def titles(groups: list[ChartGroup]) -> dict[str, list[str]]:
    return {group.heading: [chart.title for chart in group.charts] for group in groups}


def points(*values: float) -> CurvePoints:
    return CurvePoints(tuple(range(len(values))), values)


def test_metrics_are_grouped_and_unknown_ones_are_not_dropped() -> None:
    record = {"step": 0, "learning_rate": 0.1, "token_accuracy": 0.5, "reward": 1.0, "reward_iou": 0.5, "kl": 0.0}
    record |= {"reward@coins": 1.0, "nonzero_std_frac": 0.5, "loss": 3.0, "note": "text", "flag": True}
    assert titles(chart_groups([system("a", record)])) == {
        MAIN: ["reward", "reward: IoU", "reward@coins"],
        "Completions": ["groups with different rewards"],
        "Update": ["loss", "KL divergence", "learning rate"],
        "Other": ["token accuracy"],
    }


def test_reward_task_part_and_validation_score_come_first_and_the_rest_is_collapsed() -> None:
    record = {"step": 0, "validation_recall": 0.1, "validation_f1@coins": 0.2, "validation_score": 0.3}
    record |= {"reward": 1.0, "reward_confidence": 0.5, "reward_format": 1.0, "reward_iou": 0.5}
    main, reward, validation = chart_groups([system("a", record)])
    assert [chart.title for chart in main.charts] == ["reward", "reward: IoU", "validation: score"]
    assert [chart.title for chart in reward.charts] == ["reward: confidence", "reward: format"]
    assert [chart.title for chart in validation.charts] == ["validation: F1@coins", "validation: recall"]
    assert [one.is_main for one in (main, reward, validation)] == [True, False, False]


def test_of_supervised_training_the_loss_comes_first() -> None:
    (main, update) = chart_groups([system("a", {"step": 0, "loss": 1.0, "grad_norm": 1.0})])
    assert ([chart.title for chart in main.charts], main.is_main) == (["loss"], True)
    assert [chart.title for chart in update.charts] == ["gradient norm"]


def test_charts_of_a_run_with_a_warm_start_have_one_step_axis() -> None:
    warm = [{"step": number, "demonstration_loss": 2.0 - number} for number in range(2)]
    rewarded = [{"step": number, "reward": 1.0} for number in range(2, 5)]
    charts = {chart.title: chart for group in chart_groups([system("a", *warm, *rewarded)]) for chart in group.charts}
    assert charts["reward"].lines[0].points.steps == (3, 4, 5)
    assert charts["demonstration loss"].lines[0].points.steps == (1, 2)
    assert {chart.x_range for chart in charts.values()} == {(1, 5)}
    # before the first reward, the loss comes first
    (main,) = chart_groups([system("a", *warm)])
    assert ([chart.title for chart in main.charts], main.is_main) == (["demonstration loss"], True)


@pytest.mark.parametrize(
    ("name", "values", "ends"),
    [
        ("unreadable_frac", (0.01, 0.02), (0.0, 1.0)),
        ("validation_f1", (0.35, 0.36), (0.0, 1.0)),
        ("reward_iou", (0.98, 0.99), (0.0, 1.0)),
        ("reward_confidence", (-0.5, 0.1), (-1.0, 1.0)),
        ("reward_giou", (0.0, 1.5), (0.0, 1.5)),
        ("reward", (1.16, 1.49), (0.0, 1.49)),
        ("kl", (0.1, 0.2), (0.0, 0.2)),
        ("loss", (-1e-8, 1e-8), (-1e-3, 1e-3)),
    ],
)
def test_axes_are_fixed_so_that_a_flat_line_is_drawn_flat(
    name: str, values: tuple[float, ...], ends: tuple[float, float]
) -> None:
    records = [{"step": step, name: value} for step, value in enumerate(values)]
    charts = [chart for group in chart_groups([system("a", *records)]) for chart in group.charts]
    assert [chart.y_range for chart in charts] == [ends]


def test_x_is_the_number_of_completed_steps_and_the_untrained_model_is_validated_at_zero() -> None:
    records = (
        {"step": 0, "validation_f1": 0.1},
        {"step": 0, "reward": 1.0},
        {"step": 0, "validation_f1": 0.2},
        {"step": 1, "reward": 2.0},
        {"step": 1, "validation_f1": 0.3},
    )
    (main,) = chart_groups([system("a", *records)])
    reward, validation = (chart.lines[0].points for chart in main.charts)
    assert reward == CurvePoints((1, 2), (1.0, 2.0))
    assert validation == CurvePoints((0, 1, 2), (0.1, 0.2, 0.3))


def test_runs_share_a_chart_and_a_run_without_the_metric_has_no_line() -> None:
    both = [system("a", {"step": 0, "reward": 1.0, "kl": 0.1}), system("b", {"step": 0, "reward": 2.0})]
    reward, update = chart_groups([ReportedSystem(name="base"), *both])
    assert [(line.name, line.system) for line in reward.charts[0].lines] == [("a", 1), ("b", 2)]
    assert [line.name for line in update.charts[0].lines] == ["a"]


def test_seeds_of_a_system_share_its_colour() -> None:
    runs = tuple(ReportedRun(name=f"seed {i}", folder="", metrics=({"step": 0, "reward": 1.0},)) for i in (1, 2))
    (group,) = chart_groups([ReportedSystem(name="rft", runs=runs)])
    assert [(line.name, line.tone) for line in group.charts[0].lines] == [("rft (seed 1)", 0), ("rft (seed 2)", 0)]


def test_losses_of_several_trainers_are_charts_of_their_own() -> None:
    def of(trainer: str, loss: float) -> ReportedSystem:
        run = ReportedRun(name=trainer, folder="", card={"trainer": trainer}, metrics=({"step": 0, "loss": loss},))
        return ReportedSystem(name=trainer, runs=(run,))

    (main,) = chart_groups([of("grpo", 1e-9), of("sft", 2.0)])
    assert [(chart.title, chart.lines[0].name) for chart in main.charts] == [
        ("loss of grpo", "grpo"),
        ("loss of sft", "sft"),
    ]
    (main,) = chart_groups([of("sft", 1.0), of("sft", 2.0)])
    assert [chart.title for chart in main.charts] == ["loss"]


def test_values_that_are_not_finite_are_skipped() -> None:
    records = ({"step": 0, "loss": float("nan")}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": float("inf")})
    (group,) = chart_groups([system("a", *records)])
    assert group.charts[0].lines[0].points == CurvePoints((2,), (2.0,))
    assert chart_groups([system("a", {"step": 0, "loss": float("nan")})]) == []
    assert chart_groups([system("a"), ReportedSystem(name="base")]) == []


def test_throughput_and_mfu_of_each_step_are_charts_and_the_counted_operations_are_not() -> None:
    metrics = [{"step": number, "num_tokens": 4000, "update_flops": 10**15} for number in range(2)]
    timings = [{"step": 0, "sampling": 6.0, "update": 2.0}, {"step": 1, "sampling": 6.0, "update": 4.0}]
    card = {"dtype": "bfloat16", "device": "NVIDIA H100 80GB HBM3", "num_processes": 2}
    run = ReportedRun(name="a", folder="a", metrics=metrics, timings=timings, card=card)
    groups = chart_groups([ReportedSystem(name="a", runs=(run,))])
    assert titles(groups) == {
        "Update": ["tokens per step"],
        "Time": ["tokens/s", "MFU of the update", "seconds per step"],
    }
    rates, mfu, _ = groups[-1].charts
    assert rates.lines[0].points == CurvePoints((1, 2), (500.0, 400.0))
    # 1e15 operations / (2 s x 2 x 989e12 operations/s), and in 4 s half of that
    assert mfu.lines[0].points.values == pytest.approx((0.25278, 0.12639), rel=1e-4)
    assert mfu.is_fraction


@pytest.mark.parametrize(
    "card", [{"dtype": "float32", "device": "NVIDIA H100"}, {"dtype": "bfloat16", "device": "cpu"}]
)
def test_no_mfu_is_shown_in_float32_or_on_a_device_of_unknown_rate(card: dict[str, str]) -> None:
    metrics, timings = [{"step": 0, "num_tokens": 1, "update_flops": 9}], [{"step": 0, "update": 1.0}]
    run = ReportedRun(name="a", folder="a", metrics=metrics, timings=timings, card=card)
    (_, time) = chart_groups([ReportedSystem(name="a", runs=(run,))])
    assert [chart.title for chart in time.charts] == ["tokens/s", "seconds per step"]


def test_the_time_of_each_stage_is_a_line_with_its_fraction() -> None:
    timings = ({"step": 0, "sampling": 3.0, "update": 1.0, "pack": 0.0002}, {"step": 1, "sampling": 3.0, "update": 1.0})
    (group,) = chart_groups([system("a", timings=timings)])
    (chart,) = group.charts
    assert (chart.title, chart.description) == ("seconds per step", "4.0 s per step on average")
    assert [line.name for line in chart.lines] == ["sampling 75%", "update 25%"]
    two = chart_groups([system("a", timings=timings), system("b", timings=timings)])
    assert [one.title for one in two[0].charts] == ["seconds per step, a", "seconds per step, b"]


@pytest.mark.parametrize("name", ["nonzero_std_frac", "validation_unreadable_frac"])
def test_fractions_are_shown_as_percent_unless_above_one(name: str) -> None:
    (group,) = chart_groups([system("a", {"step": 0, name: 0.5})])
    assert group.charts[0].is_fraction
    (group,) = chart_groups([system("a", {"step": 0, name: 1.5})])
    assert not group.charts[0].is_fraction


def test_gaussian_fluctuations_are_smoothed_to_the_trend() -> None:
    rng = random.Random(0)
    values = points(*(step / 100 + rng.gauss(0, 0.2) for step in range(200)))
    found = smoothed(values)
    assert found is not None
    # 21 points each: a standard error of 0.2 / sqrt(21) = 0.044; at the ends about twice that
    assert all(abs(value - step / 100) < 0.2 for step, value in zip(*found, strict=True))
    assert found.steps == values.steps


def test_smoothing_does_not_bend_the_ends_of_a_slope() -> None:
    # up by 1 and down by 0.9, so 0.05 a step
    wave = points(*(0.05 * step + 0.475 * (step % 2) for step in range(100)))
    found = smoothed(wave)
    assert found is not None
    # the mean line is 0.05 step + 0.2375; the smoothed ends lie on it within a fifth of the fluctuation
    assert found.values[0] == pytest.approx(0.2375, abs=0.1)
    assert found.values[-1] == pytest.approx(0.05 * 99 + 0.2375, abs=0.1)


@pytest.mark.parametrize("values", [(1.0, 0.0) * 9, tuple(range(50)), (0.5,) * 50, (1.0,) + (0.0,) * 49])
def test_few_points_a_schedule_and_a_single_spike_are_not_smoothed(values: tuple[float, ...]) -> None:
    assert smoothed(points(*values)) is None


def test_thinning_keeps_ends_and_spikes() -> None:
    values = [0.0] * 20_000
    values[7_777], values[12_345] = 9.0, -9.0
    found = thinned(points(*values))
    assert len(found.steps) <= MOST_POINTS + 2
    assert {(0, 0.0), (7_777, 9.0), (12_345, -9.0), (19_999, 0.0)} <= set(zip(*found, strict=True))
    assert list(found.steps) == sorted(found.steps)
    few = points(1.0, 2.0)
    assert thinned(few) == few
