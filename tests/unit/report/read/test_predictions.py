"""Predictions are scored again if their dataset is found; missing data is reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from factories import edit_json
from report_factories import (
    NOTHING,
    RIGHT,
    PageReader,
    make_run,
    make_set,
    run_with_predictions,
    write_texts,
)
from virft.cli.evaluate import score
from virft.evaluation.blind import BlindScores
from virft.evaluation.predictions import PREDICTIONS, read_predictions_card
from virft.report.read import read_reported_predictions, read_systems, report_folders
from virft.report.read.predictions import FittedBlind

WORSE = "<answer>[{'Position':[600,600,900,900],'Confidence':0.9}]</answer>"


def page_of(*places: Path) -> PageReader:
    return PageReader(report_folders(places))


def test_scores_and_differences_have_intervals(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins", number=8)
    run = make_run(tmp_path / "mine", store)
    write_texts(run.folder / "eval" / "base", store, [NOTHING] * 8)
    write_texts(run.folder / "eval" / "test", store, [RIGHT] * 8, model=str(run.folder / "model"))
    (base, mine), _ = read_systems([run.folder])
    assert mine.predictions["coins"][0].scores[0].intervals["f1"] == (1.0, 1.0)
    assert base.predictions["coins"][0].resampled.keys() == {"detection"}
    assert "+1.000 to +1.000" in page_of(run.folder).texts
    (_, mine), _ = read_systems([run.folder], with_intervals=False)
    assert mine.predictions["coins"][0].scores[0].intervals == {}


def test_without_its_dataset_a_run_is_shown_by_its_saved_scores(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_predictions(tmp_path, store)
    score(predictions=run.folder / "eval" / "test", data=store.folder, intervals=False)
    shutil.rmtree(store.folder)
    found = page_of(run.folder)
    assert "0.800" in found.texts
    assert f"{store.folder}: dataset not found (hash {store.hash[:12]}); scores are from scores.json" in found.text
    assert "base on coins: " + f"{store.folder}: dataset not found" in found.text
    assert "the dataset was not found: rollouts are shown without images" in found.texts
    assert found.all("svg", cls="panel") == []


def test_missing_images_are_reported_in_their_place(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_predictions(tmp_path, store)
    for image in (store.folder / "images").iterdir():
        image.unlink()
    found = page_of(run.folder)
    assert "image missing" in found.texts
    assert f"{store.folder}/images/0.png: no such image" in found.texts
    assert "0.800" in found.texts


def test_corrupt_predictions_are_reported_and_the_rest_is_shown(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_predictions(tmp_path, store)
    other = make_set(tmp_path / "coins2", number=5)
    write_texts(run.folder / "eval" / "bad_card", store, [RIGHT])
    (run.folder / "eval" / "bad_card" / "card.json").write_text("{}")
    bad_lines = write_texts(run.folder / "eval" / "bad_lines", store, [WORSE])
    (bad_lines / PREDICTIONS).write_text("{}\n")
    # predictions for other questions than the card states
    mixed = write_texts(run.folder / "eval" / "mixed", other, [WORSE] * 5)
    edit_json(mixed / "card.json", lambda tree: tree.update(data=str(store.folder), data_hash=store.hash))
    found = page_of(run.folder)
    assert f"{run.folder}/eval/bad_card/card.json: not a predictions card of schema_version 1" in found.texts
    assert "bad_lines/predictions.jsonl:1: finish_reason is missing" in found.text
    assert f"mixed/predictions.jsonl: sample 'q3' is not in {store.folder}" in found.text
    assert "0.800" in found.texts


def test_baselines_that_are_scored_once_give_each_predictions_its_own_difference(tmp_path: Path) -> None:
    train, test = make_set(tmp_path / "train", number=8), make_set(tmp_path / "test", number=4)
    run = make_run(tmp_path / "mine", train)
    half = [RIGHT, RIGHT, NOTHING, NOTHING]
    folders = [
        write_texts(run.folder / "eval" / name, test, texts, model=name)
        for name, texts in (("first", [NOTHING] * 4), ("second", half))
    ]

    def read(folder: Path, fitted: FittedBlind | None) -> BlindScores:
        card = read_predictions_card(folder / PREDICTIONS)
        return read_reported_predictions(folder, card, near=tmp_path, fitted=fitted).blind["detection"]

    fitted: FittedBlind = {}
    together = [read(folder, fitted) for folder in folders]
    alone = [read(folder, None) for folder in folders]
    assert len(fitted) == 1
    assert [one.difference for one in together] == [one.difference for one in alone]
    assert [one.common_answer for one in together] == [one.common_answer for one in alone]
    # two of four targets found: 2 * 2 / (2 + 4); the mean box finds all
    assert together[1].difference.value == pytest.approx(2 / 3 - 1)
