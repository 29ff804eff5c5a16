"""A run is evaluated from predictions that exist already, so that no model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import detections, sample
from virft.cli.main import main
from virft.config.schema import Config, DataConfig, ModelConfig, RunConfig, SamplingConfig
from virft.config.toml_file import dump
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, DataError, ModelError, RunError
from virft.evaluation.leakage import leakage_warnings
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.recipes import evaluate
from virft.recipes.run_evaluation import evaluate_run, find_model, run_evaluation_lines
from virft.training.run import run_card
from virft.types import FinishReason, ImageSize, Prediction

SIZE = ImageSize(100, 100)
LEFT, RIGHT = (0, 0, 40, 100), (60, 0, 100, 100)
TEXTS = {
    side: f"<answer>[{{'Position': {box}, 'Confidence': 0.9}}]</answer>"
    for side, box in (("left", [0, 0, 400, 1000]), ("right", [600, 0, 1000, 1000]))
}
NOTHING = "<answer>No Objects</answer>"
RIGHT_ANSWERS = [TEXTS["left"], TEXTS["right"]] * 6
BASE = "some/base-model"
"""A hub id that does not exist: a test that loads it fails."""


def make_store(folder: Path, boxes: Sequence[tuple[int, int, int, int]]) -> Store:
    with StoreWriter(folder) as writer:
        for number, corners in enumerate(boxes):
            # other images in each dataset
            colour = (number, *folder.name.encode()[:2])
            path = writer.add_image(f"{number}.png", Image.new("RGB", SIZE, colour))
            writer.add(sample(detections(corners), id=str(number), image=path, size=SIZE))
        writer.finish(source={}, seed=0)
    return Store(folder)


def make_run(folder: Path, *, model: bool = True) -> Path:
    """A finished run of 12 steps on twelve objects on the left, and a test set with objects on both sides."""
    train = make_store(folder / "data" / "train", [LEFT] * 12)
    make_store(folder / "data" / "test", [LEFT, RIGHT] * 6)
    run = folder / "runs" / "mine"
    run.mkdir(parents=True)
    config = Config(
        model=ModelConfig(path=BASE),
        data=DataConfig(train=str(train.folder)),
        run=RunConfig(dir=str(run)),
        sampling=SamplingConfig(max_completion_tokens=64),
    )
    (run / "config.toml").write_text(dump(config))
    card = run_card(trainer="grpo", commit=None, data_hash=train.hash, model=BASE, base=None, data=[])
    (run / "card.json").write_text(json.dumps(card))
    if model:
        (run / "model").mkdir()
        (run / "model" / "config.json").write_text("{}")
        (run / "model" / "model.safetensors").touch()
    return run


def predict(folder: Path, model: str | Path, data: Path, texts: Sequence[str], **changes: Any) -> Path:
    store = Store(data)
    card = PredictionsCard(
        model=str(model),
        data=str(data),
        data_hash=store.hash,
        num_samples=len(texts),
        box_space=BoxSpace.RELATIVE_1000,
        thinking=False,
        settings={"template": "paper", "max_completion_tokens": 64, "temperature": 0.0, "commit": "abc"},
    )
    rows = [
        SizedPrediction(Prediction(sample_id=str(number), text=text, finish_reason=FinishReason.STOP), SIZE)
        for number, text in enumerate(texts)
    ]
    return write_predictions(folder, replace(card, **changes), rows)


@pytest.fixture(autouse=True)
def no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"loads {arguments}")

    monkeypatch.setattr(evaluate, "load_as_trained", load)


def test_base_and_trained_model_are_compared_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    predict(run / "eval" / "base_test", BASE, data, [NOTHING] * 12)
    assert main(["eval", str(run), str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"{run}/eval/test: predictions of {run}/model exist already and are used",
        f"{run}/eval/base_test: predictions of {BASE} exist already and are used",
    ]
    assert lines[2].startswith(f"trained ({run}/model): F1 1.000 (1.000 to 1.000), AP 1.000")
    assert lines[3].startswith(f"base ({BASE}): F1 0.000 (0.000 to 0.000)")
    assert lines[4] == "trained - base: F1 +1.000 (+1.000 to +1.000): better"
    assert lines[5].startswith("best blind baseline: mean box, F1 0.500 (")
    assert "; the trained model is above it: +0.500 (+" in lines[5]
    assert lines[6] == f"report: {run}/report.html; all scores: {run}/eval/test/scores.json"
    assert (run / "report.html").stat().st_size > 1000
    tree = json.loads((run / "eval" / "test" / "scores.json").read_text())
    assert tree["against"]["detection"]["differences"]["f1"]["value"] == 1.0
    assert tree["blind"]["tasks"]["detection"]["best"] == "mean box"


def test_other_forms_of_the_trained_model_are_compared_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    settings = {"template": "paper", "max_completion_tokens": 64, "dtype": "float32", "load_in_4bit": True}
    merged = tmp_path / "merged"
    merged.mkdir()
    for name in ("config.json", "model.safetensors"):
        (merged / name).write_bytes((run / "model" / name).read_bytes())
    predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    predict(run / "eval" / "test_4bit", run / "model", data, [*RIGHT_ANSWERS[:6], *[NOTHING] * 6], settings=settings)
    predict(run / "eval" / "test_merged", merged, data, RIGHT_ANSWERS)
    assert main(["eval", str(run), str(data), "--no-base", "--also", "4bit", "--also", str(merged)]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("also ("))
    # 6 hits of 12 targets, no other box: 12 / 18
    assert lines[at].startswith(f"also ({run}/model in 4 bits): F1 0.667 (")
    assert lines[at + 1].startswith("  minus trained: F1 -0.333 (-")
    assert lines[at + 1].endswith(": worse")
    assert lines[at + 2].startswith("  minus trained: AP -0.")
    assert lines[at + 3].startswith(f"also ({merged}): F1 1.000")
    assert lines[at + 4] == "  minus trained: F1 +0.000 (+0.000 to +0.000): not distinguishable"
    assert (run / "eval" / "test_4bit" / "scores.json").exists()


def test_4_bits_without_the_package_are_refused_before_the_first_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="load_in_4bit needs bitsandbytes"):
        evaluate_run(run, data, also=["4bit"], with_base=False, log=print)
    assert not (run / "eval" / "test").exists()


def test_the_trained_model_cannot_be_compared_with_itself_in_4_bits(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    with pytest.raises(ConfigError, match=r"--also 4bit: .*model has 4 bits already"):
        evaluate_run(run, data, also=["4bit"], load_in_4bit=True, with_base=False, log=print)
    with pytest.raises(ModelError, match="nowhere: there is no such folder"):
        evaluate_run(run, data, also=[str(tmp_path / "nowhere")], with_base=False, log=print)


def test_a_collapsed_model_is_marked(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    predict(run / "eval" / "test", run / "model", data, [NOTHING] * 12)
    found = evaluate_run(run, data, with_base=False, log=print)
    lines = list(run_evaluation_lines(found))
    assert "; the trained model is BELOW it: -0.500 (" in lines[1]
    assert lines[2] == '12 of 12 answers are "No Objects"'
    assert found.base is None
    assert found.comparisons == ()


def test_the_best_model_is_evaluated_unless_the_last_one_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert find_model(run) == (run, run / "model")
    (run / "best").mkdir()
    assert find_model(run) == (run, run / "best")
    assert find_model(run / "model") == (run, run / "model")


def test_predictions_of_the_base_model_in_a_neighbouring_run_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    other = tmp_path / "runs" / "other"
    predict(other / "eval" / "base", BASE, data, [TEXTS["left"]] * 12)
    (other / "config.toml").write_text((run / "config.toml").read_text())
    monkeypatch.chdir(tmp_path)
    found = evaluate_run(run, data, log=print)
    assert found.base is not None
    assert found.base.path.is_relative_to(other)
    assert f"\nruns/other/eval/base: predictions of {BASE} exist already" in capsys.readouterr().out
    assert not (other / "eval" / "base" / "scores.json").exists(), "another run's folder is only read"


def test_predictions_in_a_copied_run_are_used_last(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    other = make_run(tmp_path / "second")
    predict(other / "eval" / "base", BASE, data, [NOTHING] * 12)
    shutil.copytree(other, run.parent / "a_copy")
    found = evaluate_run(run, data, log=print)
    assert found.base is not None and found.base.path.is_relative_to(run.parent / "a_copy")
    config = (other / "config.toml").read_text()
    moved = shutil.move(other, run.parent / "other")
    (moved / "config.toml").write_text(config.replace(f'"{other}"', f'"{moved}"'))
    found = evaluate_run(run, data, log=print)
    assert found.base is not None and found.base.path.is_relative_to(moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thinking": True}, "thinking is True .saved. and False .now."),
        ({"model": "other"}, "model is 'other' .saved."),
        ({"num_samples": 5}, "the number of questions is 5 .saved. and 12 .now."),
        ({"settings": {"max_completion_tokens": 8}}, "max_completion_tokens is 8 .saved. and 64 .now."),
    ],
)
def test_predictions_with_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    model = changes.get("model", run / "model")
    predict(run / "eval" / "test", model, data, RIGHT_ANSWERS, **{k: v for k, v in changes.items() if k != "model"})
    with pytest.raises(RunError, match=f"eval/test: holds predictions made with other settings: {message}"):
        evaluate_run(run, data, with_base=False, log=print)


def test_a_second_test_set_of_the_same_name_has_its_own_folder(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    predict(run / "eval" / "base_test", BASE, data, [NOTHING] * 12)
    other = make_store(tmp_path / "other" / "test", [RIGHT] * 3)
    new = f"test_{other.hash[:8]}"
    predict(run / "eval" / new, run / "model", other.folder, [TEXTS["right"]] * 3)
    predict(run / "eval" / f"base_{new}", BASE, other.folder, [NOTHING] * 3)
    found = evaluate_run(run, other.folder, log=print)
    assert found.base is not None
    assert [one.path.parent.name for one in (found.trained, found.base)] == [new, f"base_{new}"]
    assert evaluate_run(run, data, log=print).trained.path.parent.name == "test"


def test_a_second_test_set_is_predicted_into_that_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    path = predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    before = path.read_bytes()
    other = make_store(tmp_path / "other" / "test", [RIGHT] * 3)
    with pytest.raises(AssertionError, match="loads"):
        evaluate_run(run, other.folder, log=print)
    new = run / "eval" / f"test_{other.hash[:8]}"
    assert f"predictions of {run}/model on {other.folder} -> {new}\n" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_unfinished_predictions_need_resume(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    path = predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS[:4])
    path.rename(path.with_name("predictions.part-0.jsonl"))
    with pytest.raises(RunError, match="holds unfinished predictions; resume with --resume"):
        evaluate_run(run, data, with_base=False, log=print)
    with pytest.raises(AssertionError, match="loads"):
        evaluate_run(run, data, with_base=False, resume=True, log=print)


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, model=False)
    data = tmp_path / "data" / "test"
    with pytest.raises(RunError, match=r"has no trained model yet; expected a finished run"):
        evaluate_run(run, data, log=print)
    with pytest.raises(RunError, match=r"nowhere: does not exist; expected a run folder"):
        evaluate_run(tmp_path / "nowhere", data, log=print)
    with pytest.raises(RunError, match=r"data: holds no run; expected a run folder .with config.toml."):
        evaluate_run(tmp_path / "data", data, log=print)


def test_the_test_set_is_refused_as_training_data(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    with pytest.raises(DataError, match="has the same samples as the test set"):
        evaluate_run(run, data, train=data, log=print)


def test_the_training_set_and_the_validation_set_of_the_run_are_marked(tmp_path: Path) -> None:
    run, train = make_run(tmp_path), tmp_path / "data" / "train"
    predict(run / "eval" / "train", run / "model", train, RIGHT_ANSWERS)
    lines = list(run_evaluation_lines(evaluate_run(run, train, with_base=False, log=print)))
    warning = f"{train} is the training set of the run, not a test set: its scores measure memorization"
    assert f"warning: {warning}, not generalization" in lines
    assert not any("--train DATA" in line for line in lines)
    assert f"mine: {warning}" in (run / "report.html").read_text()

    data = tmp_path / "data" / "test"
    config = run / "config.toml"
    config.write_text(config.read_text().replace("[data]\n", f'[data]\nvalidation = "{data}"\n'))
    predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    found = evaluate_run(run, data, with_base=False, log=print)
    assert found.leakage == (
        f"{data} is the validation set of the run, not a test set: its scores are too high, because the best model was "
        "chosen on it",
    )


def test_single_training_images_in_a_test_set_are_counted(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    for number in (3, 5):
        shutil.copy(tmp_path / "data" / "train" / "images" / f"{number}.png", data / "images")
    assert list(leakage_warnings(run, Store(data))) == [
        f"2 of 12 images of {data} are training images of the run, such as 3.png: scores on them are too high"
    ]


def test_a_limit_has_its_own_folder(tmp_path: Path) -> None:
    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    predict(run / "eval" / "test_first_4", run / "model", data, RIGHT_ANSWERS[:4])
    found = evaluate_run(run, data, limit=4, with_base=False, log=print)
    assert next(run_evaluation_lines(found)).endswith(" on 4 of 12 questions about 4 images")


def test_predictions_older_than_the_model_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    run, data = make_run(tmp_path), tmp_path / "data" / "test"
    path = predict(run / "eval" / "test", run / "model", data, RIGHT_ANSWERS)
    (run / "model" / "model.safetensors").write_bytes(b"")
    os.utime(path, (1, 1))
    evaluate_run(run, data, with_base=False, log=print)
    assert "model is newer than" in capsys.readouterr().out
