"""The first screen: what was trained, headline metrics with blind baselines, warnings, four examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factories import detections, reading, sample, save_image
from report_factories import (
    PageReader,
    make_run,
    make_set,
    predictions,
    predictions_on,
    run_with_predictions,
    scores,
    write_texts,
)
from virft.evaluation.blind import BlindBaseline, BlindScores, CommonAnswer
from virft.evaluation.comparison import ScoreDifference, SystemValue
from virft.metrics.bootstrap import Resampled
from virft.report.read import read_systems
from virft.report.render.blind_tables import blind_table
from virft.report.render.overview import Overview, make_overview, select_four
from virft.report.render.page_images import PageImages
from virft.report.render.reported import ReportedPredictions, ReportedRun, ReportedSystem
from virft.report.render.run_page import render_run_page
from virft.report.render.score_tables import score_tables
from virft.report.render.shown_questions import shown_tests
from virft.types import Detections


def blind(value: float, difference: float, *, common: CommonAnswer | None = None) -> BlindScores:
    """A mean box with this F1, and a system whose F1 differs by ``difference``, give or take 0.05."""

    def at(one: float) -> SystemValue:
        return SystemValue(mean=one, low=one, high=one, num_seeds=1)

    box = BlindBaseline(name="mean box", task="detection", values={"f1": value}, intervals={"f1": (0.1, 0.9)})
    nothing = BlindBaseline(name="No Objects", task="detection", values={"f1": 0.0}, intervals={})
    return BlindScores(
        task="detection",
        metric="f1",
        baselines=(box, nothing),
        best_headline=(at(value), Resampled(images=(), values={})),
        difference=ScoreDifference(
            first=at(value),
            second=at(value + difference),
            value=difference,
            interval=(difference - 0.05, difference + 0.05),
        ),
        common_answer=common,
    )


def system(
    name: str, f1: float, found: BlindScores | None = None, *, test: str = "coins", **more: Any
) -> ReportedSystem:
    one = predictions(scores({"f1": f1}, intervals={"f1": (f1 - 0.25, f1 + 0.25)}))
    if found is not None:
        one = replace(one, blind={"detection": found})
    return ReportedSystem(name=name, predictions={test: (one,)}, **more)


def overview(*systems: ReportedSystem) -> Overview:
    return make_overview(systems, score_tables(systems), shown_tests(systems, PageImages(), number=4))


def test_systems_and_blind_baselines_share_an_axis_from_0_to_1() -> None:
    (plot,) = overview(system("base", 0.25, blind(0.5, -0.25)), system("rft", 0.625, blind(0.5, 0.125))).plots
    assert [(row.name, row.place, row.at, row.low, row.high) for row in plot.rows] == [
        ("base", 0, 25.0, 0.0, 50.0),
        ("rft", 1, 62.5, 37.5, 87.5),
        ("mean box", None, 50.0, 10.0, 90.0),
        ("No Objects", None, 0.0, None, None),
    ]
    assert (plot.best_blind, plot.metric, plot.facts) == (50.0, "F1", "10 questions")


def test_a_system_that_is_not_above_the_best_blind_baseline_is_named() -> None:
    three = (blind(0.5, -0.25), blind(0.5, 0.02), blind(0.5, 0.3))
    systems = (system(name, 0.5, found) for name, found in zip(("base", "sft", "rft"), three, strict=True))
    (plot,) = overview(*systems).plots
    assert plot.verdicts == (
        "base: below the best blind baseline (mean box).",
        "sft: not distinguishable from the best blind baseline (mean box).",
    )


def test_without_a_confidence_interval_a_better_value_is_no_verdict() -> None:
    better, worse = (
        replace(one, difference=replace(one.difference, interval=None)) for one in (blind(0.5, 0.3), blind(0.5, -0.3))
    )
    (plot,) = overview(system("rft", 0.8, better), system("base", 0.2, worse)).plots
    assert plot.verdicts == ("base: not distinguishable from the best blind baseline (mean box).",)


def test_of_many_test_sets_only_the_best_blind_baseline_is_plotted() -> None:
    one = predictions(scores({"f1": 0.5}))
    fitted = replace(one, blind={"detection": blind(0.5, 0.3)})
    found = overview(ReportedSystem(name="base", predictions=dict.fromkeys("abc", (fitted,))))
    assert [[row.name for row in plot.rows] for plot in found.plots] == [["base", "mean box"]] * 3


def test_without_training_data_the_reason_is_shown() -> None:
    one = replace(predictions(scores({"f1": 0.5})), blind_note="data/train: was not found")
    systems = [ReportedSystem(name="base", predictions={"coins": (one,)})]
    (plot,) = overview(*systems).plots
    assert (plot.best_blind, plot.note) == (None, "data/train: was not found")
    assert "No blind baselines: data/train: was not found." in PageReader(render_run_page(systems, title="t")).texts


EVENTS = (
    {"event": "collapse", "message": "the answers collapse: 90% ..."},
    {"event": "settings", "message": "resumed"},
    {"event": "collapse"},
    {"event": "my_monitor"},
)


def test_equal_answers_and_events_are_badges_that_lead_to_the_details() -> None:
    run = ReportedRun(name="rft", folder="r", events=EVENTS)
    common = CommonAnswer(count=27, num_answers=40, description="the same box")
    systems = [system("rft", 0.5, blind(0.5, 0.0, common=common), runs=(run,))]
    found = overview(*systems)
    assert [(one.text, one.target) for one in found.badges] == [
        ("rft, coins: 27 of 40 answers are the same box", "table-1"),
        ("rft: answers collapse, 2 times", "runs"),
        ("rft: my monitor", "runs"),
    ]
    page = PageReader(render_run_page(systems, title="t"))
    ids = {one.get("id") for _, one in page.elements}
    assert {one["href"][1:] for one in page.all("a") if one["href"].startswith("#")} <= ids


def test_a_stop_is_a_badge_unless_the_run_was_resumed_after_it() -> None:
    end, resume = {"event": "end", "message": "stopped after step 3"}, {"event": "resume", "message": "resumed"}
    ways = {
        "cut": (end,),
        "resumed": (end, resume),
        "cut again": (end, resume, end),
    }
    badges = {}
    for name, events in ways.items():
        run = ReportedRun(name="rft", folder="r", events=events)
        badges[name] = [one.text for one in overview(system("rft", 0.5, runs=(run,))).badges]
    assert badges == {"cut": ["rft: stopped early"], "resumed": [], "cut again": ["rft: stopped early"]}


def test_the_model_data_and_steps_of_a_run_are_named() -> None:
    run = ReportedRun(
        name="rft",
        folder="r",
        card={"model": "virft-tiny", "trainer": "grpo"},
        settings={"data.train": "data/mine/train", "grpo.steps": 60},
    )
    mixed = replace(run, settings={"mixture.a.data": "data/a", "mixture.b.data": "data/b"}, card={"trainer": "sft"})
    found = overview(ReportedSystem(name="rft", runs=(run,)), ReportedSystem(name="sft", runs=(mixed, mixed)))
    assert [one.facts for one in found.trained] == [
        "virft-tiny · GRPO on data/mine/train · 60 steps",
        "model not recorded · SFT on data/a, data/b",
    ]


def shown_examples(folder: Path, before: list[float], after: list[float]) -> list[tuple[str, str]]:
    samples = [sample(id=f"q{i}", image=str(save_image(folder / f"{i}.png", seed=i))) for i in range(len(before))]

    def of(values: list[float]) -> ReportedPredictions:
        answers = {
            f"q{i}": reading(detections((10, 10, 30, 40)) if one else Detections()) for i, one in enumerate(values)
        }
        return predictions_on(samples, answers, {f"q{i}": one for i, one in enumerate(values)})

    systems = [
        ReportedSystem(name=name, predictions={"a": (of(one),)}) for name, one in (("base", before), ("rft", after))
    ]
    tests = shown_tests(systems, PageImages(), number=16)
    return [(one.kind, one.question.id) for one in select_four(tests)]


def test_four_examples_are_two_better_a_failure_and_a_typical_one(tmp_path: Path) -> None:
    found = shown_examples(tmp_path, [0, 0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1])
    assert found == [("better", "q0"), ("better", "q1"), ("failure", "q3"), ("typical", "q5")]


def test_without_better_ones_the_examples_are_worse_ones_and_failures(tmp_path: Path) -> None:
    assert shown_examples(tmp_path, [1, 0, 0], [0, 0, 0]) == [("failure", "q1"), ("worse", "q0"), ("failure", "q2")]


def test_blind_baselines_are_fitted_on_the_training_data_of_the_run(tmp_path: Path) -> None:
    train, test = make_set(tmp_path / "train"), make_set(tmp_path / "test", number=4)
    run = make_run(tmp_path / "mine", train)
    nothing = "<answer>No Objects</answer>"
    write_texts(run.folder / "eval" / "test", test, [nothing] * 4, model=str(run.folder / "model"))
    systems, _ = read_systems([run.folder])
    (plot,) = overview(*systems).plots
    # every target is the upper left quarter, as in training: the mean box finds all of them
    assert (plot.rows[0].cell.text, plot.best_blind) == ("0.000", 100.0)
    assert plot.verdicts[0].startswith("mine: below the best blind baseline")


def test_predictions_on_the_training_data_have_no_fitted_baselines(tmp_path: Path) -> None:
    run = run_with_predictions(tmp_path, make_set(tmp_path / "coins"))
    systems, _ = read_systems([run.folder])
    (plot,) = overview(*systems).plots
    assert "mean box" not in [row.name for row in plot.rows]


def test_the_table_of_blind_baselines_has_the_metrics_of_the_scores_and_dashes_where_those_are_undefined() -> None:
    fitted = blind(0.5, 0.3)
    values = {"f1": 0.8, "false_positive_rate": 0.0}
    one = replace(predictions(scores(values, counts={"num_absent": 0})), blind={"detection": fitted})
    systems = [ReportedSystem(name="rft", predictions={"coins": (one,)})]
    found = blind_table(score_tables(systems)[0], systems)
    assert found is not None
    assert found.columns == ("mean box", "No Objects")
    assert [(row.name, [cell.text for cell in row.cells]) for row in found.rows] == [
        ("f1", ["0.500", "0.000"]),
        ("false_positive_rate", ["–", "–"]),
    ]


@pytest.mark.parametrize(("times", "is_wide"), [(1, False), (2, True)])
def test_a_table_of_many_blind_baselines_has_the_width_of_the_page(times: int, is_wide: bool) -> None:
    fitted = blind(0.5, 0.3)
    one = replace(
        predictions(scores({"f1": 0.8})), blind={"detection": replace(fitted, baselines=fitted.baselines * times)}
    )
    page = render_run_page([ReportedSystem(name="rft", predictions={"coins": (one,)})], title="t")
    assert ('<article class="card wide">\n<h3>coins: blind baselines</h3>' in page) is is_wide
