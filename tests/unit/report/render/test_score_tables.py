"""Tables of metrics by system, and warnings against comparing."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np

from report_factories import predictions, scores
from virft.metrics.bootstrap import Resampled
from virft.report.render.reported import ReportedPredictions, ReportedSystem
from virft.report.render.score_tables import MOST_TABLE_ROWS, ScoreTable, disagreements, score_tables


def system(name: str, *seeds: ReportedPredictions, test: str = "coins") -> ReportedSystem:
    return ReportedSystem(name=name, predictions={test: seeds})


def table(*systems: ReportedSystem) -> ScoreTable:
    (found,) = score_tables(systems)
    return found


def resampled(*f1: float, images: Any = ("a", "b")) -> dict[str, Resampled]:
    return {"detection": Resampled(images=images, values={"f1": np.array(f1)})}


def test_every_metric_has_a_row_and_the_main_ones_come_first() -> None:
    values = {"surprise": 1.0, "recall": 0.5, "f1": 0.25, "no_objects_frac": 0.75}
    found = table(system("base", predictions(scores(values))))
    assert [row.name for row in found.rows] == ["f1", "recall"]
    assert [row.name for row in found.more] == ["no_objects_frac", "surprise"]
    assert [row.name for row in found.explained] == ["f1", "recall", "no_objects_frac"]
    assert found.headline.cells[0].text == "0.250"
    assert found.facts == ("detection", "protocol positives", "10 questions", "data aaaa")


def test_differences_are_to_the_first_system() -> None:
    found = table(
        system("base", predictions(scores({"f1": 0.5}, intervals={"f1": (0.4, 0.6)}))),
        system("rft", predictions(scores({"f1": 0.75}))),
        system("other", predictions(scores({"f1": 0.25}))),
    )
    base, rft, other = found.headline.cells
    assert (base.change, rft.change, other.change) == ("", "+0.250", "−0.250")
    assert (base.between, rft.between) == ("0.400 to 0.600", "")
    assert [name for name, _ in found.systems] == ["base", "rft", "other"]


def test_a_difference_has_an_interval_and_a_sense_if_that_excludes_0() -> None:
    def with_f1(value: float, *drawn: float, **more: Any) -> ReportedPredictions:
        return replace(predictions(scores({"f1": value})), resampled=resampled(*drawn, **more))

    base = system("base", with_f1(0.5, 0.4, 0.6))
    better, unclear, worse, elsewhere = table(
        base,
        # draws differ by 0.1 and 0.3, of which the middle 95 % is 0.105 to 0.295
        system("better", with_f1(0.7, 0.5, 0.9)),
        system("unclear", with_f1(0.6, 0.3, 0.9)),
        system("worse", with_f1(0.3, 0.3, 0.3)),
        system("other images", with_f1(0.7, 0.5, 0.9, images=("c", "d"))),
    ).headline.cells[1:]
    assert (better.change_between, better.sense) == ("+0.105 to +0.295", "better")
    assert unclear.sense == ""
    assert worse.sense == "worse"
    assert (elsewhere.change, elsewhere.change_between, elsewhere.sense) == ("+0.200", "", "")


def test_fewer_false_positives_are_better() -> None:
    def with_rate(value: float) -> ReportedPredictions:
        drawn = Resampled(images=("a", "b"), values={"false_positive_rate": np.array([value, value])})
        one = predictions(scores({"f1": 0.5, "false_positive_rate": value}))
        return replace(one, resampled={"detection": drawn})

    found = table(system("base", with_rate(0.5)), system("rft", with_rate(0.25)))
    assert found.rows[1].cells[1].sense == "better"


def test_seeds_are_a_mean_with_their_range() -> None:
    seeds = [predictions(scores({"f1": value}, intervals={"f1": (0.0, 1.0)})) for value in (0.5, 0.75, 1.0)]
    found = table(system("base", predictions(scores({"f1": 0.5}))), system("rft", *seeds))
    cell = found.headline.cells[1]
    # the mean of 0.5, 0.75 and 1
    assert (cell.text, cell.between, cell.change) == ("0.750", "0.500 to 1.000, 3 seeds", "+0.250")
    assert (cell.low, cell.high) == (0.5, 1.0)


def test_two_tasks_have_two_tables_and_a_missing_metric_is_a_dash() -> None:
    both = predictions(scores({"f1": 0.5, "ap": 0.1}), scores({"box_miou": 0.5}, task="grounding"))
    detection, grounding = score_tables([system("base", both), system("rft", predictions(scores({"f1": 0.5})))])
    assert [name for name, _ in grounding.systems] == ["base"]
    assert grounding.facts[:2] == ("grounding", "10 questions")
    assert [cell.text for cell in detection.rows[1].cells] == ["0.100", "–"]
    assert score_tables([ReportedSystem(name="base")]) == []


def test_metrics_of_unfinished_predictions_share_the_row_without_a_difference() -> None:
    found = table(
        system("base", predictions(scores({"f1": 0.5}))),
        system("rft", predictions(scores({"f1 (3 of 10)": 0.75}, num_samples=3), problem="p: still being written")),
    )
    assert [(cell.text, cell.change) for cell in found.headline.cells] == [("0.500", ""), ("0.750", "")]
    assert [cell.coverage for cell in found.headline.cells] == ["", "3 of 10"]
    assert found.warnings == (
        "the number of questions differs: 10 (base); 3 (rft)",
        "rft: p: still being written",
    )


def test_systems_with_other_data_or_settings_are_reported() -> None:
    base = predictions(scores({"f1": 0.5}))
    others = {
        "data": replace(base, data_hash="bbbb"),
        "protocol": predictions(scores({"f1": 0.5}, protocol="all")),
        "rules": replace(base, scored="from scores.json"),
        "prompt": replace(base, settings={"thinking": True}),
    }
    found = {name: disagreements([("base", [base]), (name, [one])]) for name, one in others.items()}
    assert found == {
        "data": ["the data differs: hash aaaa (base); hash bbbb (data)"],
        "protocol": ["the protocol differs: positives (base); all (protocol)"],
        "rules": ["the scoring differs: now (base); from scores.json (rules)"],
        "prompt": ["the setting thinking differs: False (base); True (prompt)"],
    }
    assert disagreements([("base", [base]), ("same", [base, base])]) == []


def test_a_table_names_the_precision_of_the_models_and_warns_if_it_differs() -> None:
    full, half = (
        replace(predictions(scores({"f1": 0.5})), settings={"dtype": dtype, "load_in_4bit": in_4bit})
        for dtype, in_4bit in (("float32", False), ("bfloat16", True))
    )
    assert table(system("base", full), system("rft", full)).facts[-1] == "float32"
    found = table(system("base", full), system("rft", half))
    assert found.facts[-2:] == ("float32", "bfloat16, language model in 4 bits")
    assert found.warnings == (
        "the setting dtype differs: float32 (base); bfloat16 (rft)",
        "the setting load_in_4bit differs: False (base); True (rft)",
    )


def test_predictions_on_other_data_have_no_difference() -> None:
    other = predictions(scores({"f1": 0.75}, data_hash="bbbb"), data_hash="bbbb")
    found = table(system("base", predictions(scores({"f1": 0.5}))), system("rft", other))
    assert found.headline.cells[1].change == ""
    assert found.warnings == ("the data differs: hash aaaa (base); hash bbbb (rft)",)


def test_tables_by_class_hold_every_class_of_every_system() -> None:
    found = table(
        system("base", predictions(scores({"f1": 0.5}, tables={"f1": {"cat": 0.5, "dog": 0.25}}))),
        system("rft", predictions(scores({"f1": 0.5}, tables={"f1": {"dog": 1.0, "fox": 0.125}, "seen": {"dog": 3}}))),
    )
    by_class, seen = found.tables
    assert by_class.rows == (("cat", ("0.500", "–")), ("dog", ("0.250", "1.000")), ("fox", ("–", "0.125")))
    assert (seen.title, seen.rows) == ("seen", (("dog", ("–", "3")),))


def test_a_table_of_very_many_classes_is_truncated_with_a_count() -> None:
    rows = {str(number): 0.5 for number in range(MOST_TABLE_ROWS + 3)}
    (by_class,) = table(system("base", predictions(scores({"f1": 0.5}, tables={"f1": rows})))).tables
    assert (len(by_class.rows), by_class.num_omitted) == (MOST_TABLE_ROWS, 3)


def test_a_metric_without_denominator_is_undefined() -> None:
    values = {"f1": 0.0, "precision": 0.0, "recall": 0.0, "false_positive_rate": 0.0}
    counts = {"num_boxes": 0, "num_targets": 3, "num_absent": 0}
    found = table(system("base", predictions(scores(values, counts=counts))))
    assert [(row.label, row.cells[0].text) for row in found.rows] == [
        ("F1", "0.000"),
        ("precision", "–"),
        ("recall", "0.000"),
        ("false positives on absent classes", "–"),
    ]


def test_a_table_is_written_as_csv_with_one_value_a_line() -> None:
    base = predictions(scores({"f1": 0.5}, intervals={"f1": (0.25, 0.75)}))
    found = table(system('a "b", c', base), system("rft", predictions(scores({"f1": 0.75}))))
    assert list(csv.reader(io.StringIO(found.csv))) == [
        ["test", "task", "metric", "system", "value", "low", "high", "difference", "difference_low", "difference_high"],
        ["coins", "detection", "f1", 'a "b", c', "0.5000", "0.2500", "0.7500", "", "", ""],
        ["coins", "detection", "f1", "rft", "0.7500", "", "", "0.2500", "", ""],
    ]
