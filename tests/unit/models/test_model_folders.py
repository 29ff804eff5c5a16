"""The best model of a run folder is loaded; what can be no model is refused with the nearest name."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from virft.cli.main import main
from virft.errors import ModelError
from virft.models.load import load_model
from virft.models.model_folders import find_model_folder, model_of_run
from virft.models.tiny import TINY_NAME, tiny_folder
from virft.recipes.fitting import load_fitted_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder without a model."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.toml").touch()
    return folder


def test_the_best_model_of_a_run_is_found_else_the_last(run: Path) -> None:
    with pytest.raises(ModelError, match=rf"^{run}: this run has saved no model yet; finish it with --resume"):
        model_of_run(str(run))
    for name in ("model", "best"):
        (run / name).mkdir()
        assert model_of_run(str(run)) == str(run / name)
    for unchanged in (str(run / "model"), TINY_NAME, "owner/name"):
        assert model_of_run(unchanged) == unchanged


def test_the_model_of_a_run_is_loaded_and_is_the_start_of_a_training(run: Path) -> None:
    shutil.copytree(tiny_folder(), run / "model")
    assert load_model(str(run)).folder == run / "model"
    loaded = load_fitted_config(None, [f"model.path={run}", "data.train=d", "run.dir=r"])
    assert loaded.config.model.path == str(run / "model")


def test_a_verb_names_the_model_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_folder(), run / "best")
    assert main(["predict", str(run), "no-data", str(run.parent / "out")]) == 2
    first, error = capsys.readouterr().err.splitlines()
    assert first == f"model of the run {run}: {run / 'best'}"
    assert error.startswith("virft: no-data: does not exist")


@pytest.mark.parametrize("name", ["virft-tny", "./nowhere", "a/b/c"])
def test_what_can_be_no_model_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"^{name}: there is no such folder; "):
        find_model_folder(name)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--model", "virft-tny"], "virft-tny: there is no such folder; did you mean virft-tiny?"),
        (["--data", "nope"], "nope: does not exist; expected a folder that `virft build` made, such as data/mine"),
        (
            ["--data", "data", "--validation", "nope"],
            "nope: does not exist; expected a dataset made by `virft build`",
        ),
    ],
)
def test_first_config_names_a_wrong_value_before_missing_ones(
    options: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    Path("data").mkdir()
    Path("data/card.json").write_text(json.dumps({"schema_version": 2}))
    Path("data/samples.jsonl").touch()
    assert main(["init", "a.toml", *options]) == 2
    assert capsys.readouterr().err == f"virft: {error}\n"
