"""Assignment of predictions to runs, base model and other models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factories import edit_json
from report_factories import (
    NOTHING,
    RIGHT,
    PageReader,
    edit_config,
    make_run,
    make_set,
    run_with_predictions,
    write_texts,
)
from virft.cli.main import main
from virft.errors import RunError
from virft.evaluation.predictions import PARTS, PREDICTIONS
from virft.report.read import read_systems, report_folders
from virft.report.read.systems import short_names
from virft.report.render.reported import ReportedSystem

WORSE = "<answer>[{'Position':[600,600,900,900],'Confidence':0.9}]</answer>"


def systems_of(*places: Path) -> dict[str, dict[str, float]]:
    """System -> test -> F1 of the predictions so far (-1 without scores)."""
    systems, _ = read_systems(places)
    return {
        one.name: {
            test: next((value for name, value in found.scores[0].values.items() if name.startswith("f1")), -1.0)
            if found.scores
            else -1.0
            for test, (found,) in one.predictions.items()
        }
        for one in systems
    }


def page_of(*places: Path) -> PageReader:
    return PageReader(report_folders(places))


def test_predictions_belong_to_the_base_to_runs_or_to_others(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_predictions(tmp_path, store)
    write_texts(run.folder / "eval" / "best", store, [RIGHT] * 3, model=str(run.folder / "best"))
    other = write_texts(tmp_path / "other", store, [WORSE] * 3, model="some/hub-model")
    # 2 hits of 2 boxes and 3 targets: 4 / 5
    expected = {
        "base": {"coins": 0.0},
        "mine": {"coins": 0.8},
        "mine, best by validation": {"coins": 1.0},
        "some/hub-model": {"coins": 0.0},
    }
    assert systems_of(run.folder, other) == expected
    assert systems_of(other, run.folder) == expected
    assert list(systems_of(other, run.folder)) == list(expected)


def test_if_only_the_best_checkpoint_has_predictions_it_represents_its_run(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    write_texts(run.folder / "eval" / "test", store, [RIGHT] * 3, model=str(run.folder / "best"))
    assert systems_of(run.folder) == {"mine": {"coins": 1.0}}


def test_a_base_given_as_a_folder_of_predictions_is_the_base_of_the_run(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    base = write_texts(tmp_path / "somewhere", store, [RIGHT, NOTHING, NOTHING])
    # 2 x 1 hit / (1 box + 3 targets)
    assert systems_of(base, run.folder) == {"base": {"coins": 0.5}, "mine": {}}


def test_a_run_initialised_from_another_runs_model_is_listed_next_to_it(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    first = run_with_predictions(tmp_path, store, name="sft")
    (first.folder / "model").mkdir()
    second = make_run(tmp_path / "rft", store)
    edit_config(second, 'path = "virft-tiny"', f'path = "{first.folder / "model"}"')
    write_texts(second.folder / "eval" / "test", store, [RIGHT] * 3, model=str(second.folder / "model"))
    assert systems_of(first.folder, second.folder) == {
        "base virft-tiny": {"coins": 0.0},
        "sft": {"coins": 0.8},
        "rft": {"coins": 1.0},
    }
    # alone, its base is what it began with
    assert systems_of(second.folder, first.folder / "eval" / "test") == {"base": {"coins": 0.8}, "rft": {"coins": 1.0}}


def test_nested_folders_and_moved_runs_are_recognised(tmp_path: Path) -> None:
    store = make_set(tmp_path / "q" / "data" / "coins")
    run = make_run(tmp_path / "q" / "run", store)
    write_texts(run.folder / "eval" / "base" / "coins", store, [NOTHING] * 3)
    write_texts(run.folder / "eval" / "rft" / "coins", store, [RIGHT] * 3, model=str(run.folder / "model"))
    expected = {"base": {"coins": 0.0}, "q": {"coins": 1.0}}
    assert systems_of(run.folder) == expected
    (tmp_path / "q").rename(tmp_path / "moved")
    assert systems_of(tmp_path / "moved" / "run") == {"base": {"coins": 0.0}, "moved": {"coins": 1.0}}
    found = page_of(tmp_path / "moved" / "run")
    assert found.all("svg", cls="panel")


def test_a_run_that_was_renamed_has_its_predictions(tmp_path: Path) -> None:
    run = run_with_predictions(tmp_path, make_set(tmp_path / "coins"), name="old")
    run.folder.rename(tmp_path / "new")
    assert systems_of(tmp_path / "new") == {"base": {"coins": 0.0}, "new": {"coins": 0.8}}


def test_a_run_called_base_is_not_the_base_and_one_of_the_same_name_is_another(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_predictions(tmp_path, store, name="base")
    other = write_texts(tmp_path / "p", store, [RIGHT] * 3, model="elsewhere/base/model")
    assert systems_of(run.folder, other) == {
        "base model": {"coins": 0.0},
        "base": {"coins": 0.8},
        "elsewhere/base/model": {"coins": 1.0},
    }


def test_equal_predictions_of_the_base_in_several_runs_count_once(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    runs = [run_with_predictions(tmp_path, store, name=name).folder for name in ("a", "b")]
    assert list(systems_of(*runs)) == ["base", "a", "b"]
    assert list(systems_of(runs[0], runs[0])) == ["base", "a"]


def test_the_same_model_with_other_settings_is_another_system(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_predictions(tmp_path, store)
    write_texts(run.folder / "eval" / "thinking", store, [NOTHING] * 3, thinking=True)
    write_texts(run.folder / "eval" / "zz", store, [RIGHT, NOTHING, NOTHING])
    assert systems_of(run.folder) == {
        "base": {"coins": 0.0},
        "base, with thinking": {"coins": 0.0},
        "base, again (2)": {"coins": 0.5},
        "mine": {"coins": 0.8},
    }


def test_datasets_of_one_name_with_other_content_are_separated_with_a_note(tmp_path: Path) -> None:
    runs = [
        run_with_predictions(tmp_path / name, make_set(tmp_path / name / "coins", query=query), name=name).folder
        for name, query in (("a", "fox"), ("b", "hen"))
    ]
    assert systems_of(*runs) == {
        "base": {"coins (a)": 0.0, "coins (b)": 0.0},
        "a": {"coins (a)": 0.8},
        "b": {"coins (b)": 0.8},
    }
    note, *others = read_systems(runs)[1]
    assert note == (
        "coins: the datasets of this name differ in content (a, b). Do not compare numbers across these tables."
    )
    assert note in page_of(*runs).texts
    starts = [f"{run.name}: {run.parent / 'coins'} is the training set of the run, not a test set" for run in runs]
    assert [one.partition(": its")[0] for one in others] == starts


def test_a_dataset_rebuilt_between_two_predictions_is_named_by_its_hash(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    for name, data_hash in (("a", "1" * 64), ("b", "2" * 64)):
        folder = write_texts(run.folder / "eval" / name, store, [RIGHT] * 3, data_hash=data_hash)
        edit_json(folder / "card.json", lambda tree, name=name: tree.update(model=str(tmp_path / "mine" / "model")))
    assert systems_of(run.folder) == {"mine": {"coins (11111111)": -1.0, "coins (22222222)": -1.0}}
    assert "has changed since the predictions were made" in page_of(run.folder).text


def test_a_folder_without_run_or_predictions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"none: no such folder; expected a run folder \(with config.toml\)"):
        read_systems([tmp_path / "none"])
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"virft: {tmp_path}: not a run; expected a run folder (with config.toml) or a folder of predictions (with "
        "predictions.jsonl and card.json)\n"
    )


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x", "y"]),
        (["x/1/run", "y/1/run"], ["x", "y"]),
        (["x/a", "y/a", "y/b"], ["x/a", "y/a", "y/b"]),
        (["mine/run"], ["mine"]),
        (["mine", "mine"], ["mine", "mine"]),
        ([], []),
    ],
)
def test_names_distinguish_folders(paths: list[str], names: list[str]) -> None:
    assert short_names([Path(path) for path in paths]) == names


def test_every_run_is_a_system_even_without_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", make_set(tmp_path / "coins"))
    (systems, notes) = read_systems([run.folder])
    assert [(one.name, dict(one.predictions)) for one in systems] == [("mine", {})]
    assert isinstance(systems[0], ReportedSystem)
    assert notes == ()
    assert json.loads(json.dumps(dict(systems[0].runs[0].card)))["commit"] == "abc"


def test_complete_predictions_come_first(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    folder = write_texts(tmp_path / "mine" / "eval" / "a", store, [RIGHT])
    (folder / PREDICTIONS).rename(folder / PARTS.format(0))
    write_texts(make_run(tmp_path / "other", store).folder / "eval" / "b", store, [NOTHING] * 3)
    # 1 hit of 1 box and 1 target so far
    assert systems_of(folder, tmp_path / "other") == {
        "base": {"coins": 0.0},
        "base, again (1)": {"coins": 1.0},
        "other": {},
    }
