"""Predictions are found below a run, and their dataset even if both were moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from factories import edit_json
from report_factories import NOTHING, make_set, write_texts
from virft.errors import DataError
from virft.evaluation.prediction_folders import data_name, find_data, find_prediction_folders, holds_predictions
from virft.evaluation.predictions import PARTS, PREDICTIONS, PredictionsCard, read_predictions_card


def card_of(folder: Path) -> PredictionsCard:
    return read_predictions_card(folder / PREDICTIONS)


def test_folders_are_found_at_any_depth_without_validations(tmp_path: Path) -> None:
    store, run = make_set(tmp_path / "d"), tmp_path / "run"
    validations = ("validation_000010", "validation_coins_000010")
    for name in ("test", "base/coins", "rft/coins", "validation_of_mine", *validations):
        write_texts(run / "eval" / name, store, [NOTHING])
    (run / "eval" / "empty").mkdir()
    found = [folder.relative_to(run / "eval").as_posix() for folder in find_prediction_folders(run)]
    assert found == ["base/coins", "rft/coins", "test", "validation_of_mine"]
    assert find_prediction_folders(tmp_path / "none") == []


def test_unfinished_predictions_count(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "run" / "eval" / "a", make_set(tmp_path / "d"), [NOTHING])
    (folder / PREDICTIONS).rename(folder / PARTS.format(0))
    assert find_prediction_folders(tmp_path / "run") == [folder]
    (folder / PARTS.format(0)).unlink()
    assert not holds_predictions(folder)


@pytest.mark.parametrize(
    ("data", "name"), [("data/coins", "coins"), ("data/coins/test", "coins/test"), ("test", "test"), ("/", "/")]
)
def test_a_dataset_is_named_by_its_folder(tmp_path: Path, data: str, name: str) -> None:
    folder = write_texts(tmp_path / "p", make_set(tmp_path / "d"), [NOTHING], data=data)
    assert data_name(card_of(folder)) == name


def test_data_is_found_from_the_current_folder_and_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_set(tmp_path / "data" / "coins")
    card = card_of(write_texts(tmp_path / "p", store, [NOTHING]))
    assert find_data(card, tmp_path / "p").folder == store.folder
    relative = replace(card, data="data/coins")
    assert find_data(relative, tmp_path / "p").folder == store.folder
    monkeypatch.chdir(tmp_path)
    assert find_data(relative, Path("nowhere")).folder == Path("data/coins")


def test_data_is_found_next_to_a_run_that_was_moved_with_it(tmp_path: Path) -> None:
    store = make_set(tmp_path / "old" / "data" / "coins")
    folder = write_texts(tmp_path / "old" / "run" / "eval" / "coins", store, [NOTHING])
    card = card_of(folder)
    (tmp_path / "old").rename(tmp_path / "new")
    assert find_data(card, tmp_path / "new" / "run").folder == tmp_path / "new" / "data" / "coins"


def test_missing_or_changed_data_is_reported(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    card = card_of(write_texts(tmp_path / "p", store, [NOTHING]))
    with pytest.raises(DataError, match=r"none: dataset not found \(hash \w{12}\)"):
        find_data(replace(card, data=str(tmp_path / "none")), tmp_path)
    other = make_set(tmp_path / "other", query="hen")
    with pytest.raises(DataError, match=f"{other.folder}: has changed since the predictions were made"):
        find_data(replace(card, data=str(other.folder)), tmp_path)
    edit_json(other.folder / "card.json", lambda tree: tree.update(schema_version=99))
    with pytest.raises(DataError, match="schema_version is 99"):
        find_data(replace(card, data=str(other.folder)), tmp_path)
