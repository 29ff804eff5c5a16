"""Saved scores are read as they were written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from report_factories import NOTHING, RIGHT, make_set, write_texts
from virft.errors import DataError
from virft.evaluation.blind_data import BlindData
from virft.evaluation.evaluated import evaluate_predictions
from virft.evaluation.predictions import PREDICTIONS
from virft.evaluation.score import RULES, score_predictions, write_scores
from virft.evaluation.score_cache import read_scores


def test_scores_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    store = make_set(tmp_path / "d")
    path = write_texts(tmp_path / "p", store, [RIGHT] * 3) / PREDICTIONS
    (found,) = score_predictions(path, store)
    found = replace(found, intervals={"f1": (0.25, 0.75)})
    write_scores((found,), tmp_path / "scores.json", predictions=path)
    (again,), rules, _ = read_scores(tmp_path / "scores.json")
    assert rules == RULES
    rounded = {name: round(value, 6) for name, value in found.values.items()}
    assert again == replace(found, values=rounded)


ONE_TASK = '{"data_hash": "", "tasks": {"detection": {"protocol": "", "num_samples": 1, "counts": {}, %s}}}'
WRONG_VALUE = ONE_TASK % '"values": {"f1": "high"}, "tables": {}, "intervals": {}'
WRONG_TABLE = ONE_TASK % '"values": {"f1": 1}, "tables": {"ap": {"fox": "high"}}, "intervals": {}'


def test_a_task_without_metrics_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(ONE_TASK % '"values": {}, "tables": {}, "intervals": {}')
    assert read_scores(tmp_path / "scores.json") == ((), None, {})


UNKNOWN_TASK = '{"tasks": {"flying": {"values": {"f1": 1}}}, "data_hash": ""}'


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tasks": 3}', UNKNOWN_TASK, WRONG_VALUE, WRONG_TABLE])
def test_a_file_without_scores_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(DataError, match=r"scores\.json: holds no scores .*expected what `virft score` writes"):
        read_scores(tmp_path / "scores.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(tmp_path / "none.json")


def test_blind_baselines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    train, store = make_set(tmp_path / "train"), make_set(tmp_path / "test", number=4)
    path = write_texts(tmp_path / "p", store, [NOTHING] * 4) / PREDICTIONS
    evaluated = evaluate_predictions(path, store, BlindData(stores=(train,)))
    evaluated.write(tmp_path / "scores.json")
    (fitted,) = evaluated.blind
    again = read_scores(tmp_path / "scores.json").blind["detection"]
    assert again.verdict == fitted.verdict == "below"
    assert [one.name for one in again.baselines] == [one.name for one in fitted.baselines]
    assert again.best.values["f1"] == 1.0
    assert again.common_answer == fitted.common_answer
