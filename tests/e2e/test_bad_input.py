"""What a user can get wrong: the message says where, what was found, what is allowed; nothing is overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from factories import edit_json, save_coco, save_image
from runs import files, virft, write_config
from virft.models.tiny import tiny_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset of two questions about two images, which a test may corrupt."""
    images = {"a.png": [("cat", [10, 10, 20, 30])], "b.png": [("dog", [0, 0, 64, 48])]}
    save_coco(tmp_path, images)
    assert virft("build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "data") == 0
    return tmp_path / "data"


def edit_samples(data: Path, old: str, new: str) -> None:
    """Change ``samples.jsonl``, and let the card vouch for it no more."""
    path = data / "samples.jsonl"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    edit_json(data / "card.json", lambda card: card.pop("hash"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


SPOILED_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing image": (
        lambda data: (data / "images" / "b.png").unlink(),
        "{data}/samples.jsonl:2: no such image: {data}/images/b.png (sample b.png:dog)",
    ),
    "a cut image": (
        lambda data: cut(data / "images" / "b.png"),
        "{data}/images/b.png: cannot be read as an image (sample b.png:dog)",
    ),
    "an image of another size": (
        lambda data: save_image(data / "images" / "b.png", (32, 24)),
        "{data}/samples.jsonl:2: {data}/images/b.png has 32 x 24 pixels upright; expected 64 x 48, which its boxes",
    ),
    "a box outside": (
        lambda data: edit_samples(data, "[0.0, 0.0, 64.0, 48.0]", "[0.0, 0.0, 640.0, 48.0]"),
        "{data}/samples.jsonl:2: box [0, 0, 640, 48] reaches outside its image; expected it inside [0, 0, 64, 48]",
    ),
    "a box without area": (
        lambda data: edit_samples(data, "[0.0, 0.0, 64.0, 48.0]", "[64.0, 0.0, 0.0, 48.0]"),
        "{data}/samples.jsonl:2: box [64, 0, 0, 48] has x2 <= x1; expected x1 < x2 in pixels of the original image",
    ),
    "an unknown task": (
        lambda data: edit_samples(data, '"task": "detection"', '"task": "detekt"'),
        "{data}/samples.jsonl:1: task is 'detekt'; expected one of detection, classification, grounding",
    ),
    "an empty set": (
        lambda data: [(data / "samples.jsonl").write_text(""), edit_json(data / "card.json", lambda c: c.pop("hash"))],
        "{data}/samples.jsonl: holds no samples; expected at least one",
    ),
    "a set edited by hand": (
        lambda data: (data / "samples.jsonl").write_text((data / "samples.jsonl").read_text().replace("cat", "dog")),
        "{data}/samples.jsonl: changed since card.json was written",
    ),
    "no data set": (lambda data: shutil.rmtree(data), "{data}: does not exist; expected a dataset made by"),
}


@pytest.mark.parametrize("spoil", SPOILED_DATA)
def test_data_that_cannot_be_used_stop_training_and_prediction_before_they_begin(
    data: Path, tmp_path: Path, spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = SPOILED_DATA[spoil]
    change(data)
    capsys.readouterr()
    for argv in (("grpo", write_config(tmp_path, data)), ("predict", "virft-tiny", data, tmp_path / "p")):
        assert virft(*argv) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("virft: " + message.format(data=data))
        assert printed.err.count("\n") == 1
        assert "step" not in printed.out
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "p").exists()


SPOILED_CONFIG = {
    "a wrong type": ("grpo.steps=many", 'command line: grpo.steps is "many"; expected an integer of at least 1'),
    "a misspelt key": (
        "grpo.group_sise=4",
        "command line: grpo.group_sise is not a setting; did you mean grpo.group_size?",
    ),
    "a key without effect": ("grpo.clip_range=0.1", "command line: grpo.clip_range has no effect: it needs grpo.upd"),
    "a number out of range": ("grpo.group_size=1", "command line: grpo.group_size is 1; expected an integer of at lea"),
    "no model there": (
        "model.path=./none",
        "./none: there is no such folder; expected virft-tiny, virft-photo, a model folder, or",
    ),
    "no template there": ("prompt.template=none.txt", "prompt.template: cannot read none.txt (No such file or directo"),
    "no reward there": ('reward.extra=["none.py:f"]', "reward.extra: 'none.py:f': there is no Python file"),
    "an unknown part": ("reward.weights.iuo=2", "reward.weights: iuo is no part of the robust reward; did you mean io"),
    "no validation data": ("data.validation=none", "none: does not exist; expected a dataset made by `virft build`"),
}


@pytest.mark.parametrize("spoil", SPOILED_CONFIG)
def test_an_invalid_setting_is_reported_before_anything_is_written(
    scenes: Path, tmp_path: Path, spoil: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    override, message = SPOILED_CONFIG[spoil]
    assert virft("grpo", write_config(tmp_path, scenes / "train"), override) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("virft: " + message)
    assert printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_wrong_type_in_the_file_names_the_file(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train", extra="model.freeze_vision = 1\n")
    assert virft("grpo", config) == 2
    assert capsys.readouterr().err == f"virft: {config}: model.freeze_vision is 1; expected true or false\n"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "no weights in this folder; expected *.safetensors next to config.json"),
        ("config.json", "no config.json in this folder; expected a Hugging Face model folder"),
    ],
)
def test_a_model_folder_without_weights_is_an_error(
    scenes: Path, tmp_path: Path, missing: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_folder(), tmp_path / "model"))
    (model / missing).unlink()
    for argv in (
        ("grpo", write_config(tmp_path, scenes / "train"), f"model.path={model}"),
        ("predict", model, scenes / "test", tmp_path / "p"),
    ):
        assert virft(*argv) == 2
        assert capsys.readouterr().err == f"virft: {model}: {message}\n"
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_files_is_not_written_into(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("mine")
    before = files(tmp_path / "run")
    assert virft("grpo", write_config(tmp_path, scenes / "train"), "--resume") == 2
    assert "is not empty and holds no run; choose another run.dir" in capsys.readouterr().err
    assert files(tmp_path / "run") == before


def test_predictions_are_not_overwritten(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("predict", "virft-tiny", scenes / "test", tmp_path / "p", "--limit", 1)
    assert virft(*argv) == 0
    before = files(tmp_path / "p")
    capsys.readouterr()
    assert virft(*argv) == 2
    assert capsys.readouterr().err == f"virft: {tmp_path / 'p'}: already holds predictions; name another folder\n"
    assert files(tmp_path / "p") == before


def test_predictions_are_not_written_into_a_folder_of_other_files(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # its card would take the place of the data set's
    data = Path(shutil.copytree(scenes / "test", tmp_path / "data"))
    before = files(data)
    assert virft("predict", "virft-tiny", data, data) == 2
    assert capsys.readouterr().err == f"virft: {data}: holds other files; name a new folder for the predictions\n"
    assert files(data) == before


def test_interrupted_predictions_are_continued_with_resume(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("predict", "virft-tiny", scenes / "test", tmp_path / "p", "--limit", 1)
    assert virft(*argv) == 0
    whole = files(tmp_path / "p")
    (tmp_path / "p" / "predictions.jsonl").rename(tmp_path / "p" / "predictions.part-0.jsonl")
    (tmp_path / "p" / "predictions.part-0.jsonl").write_text('{"sample_id"')
    assert virft(*argv) == 2
    assert "resume with --resume" in capsys.readouterr().err
    assert virft(*argv, "--resume") == 0
    assert files(tmp_path / "p") == whole
    assert virft("score", tmp_path / "p", scenes / "test", "--all") == 0
    text = capsys.readouterr().out
    assert "f1 (1 of 8)" in text
    assert " on 1 of 8 questions about 1 image\n" in text


def test_scores_on_another_dataset_are_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert virft("predict", "virft-tiny", scenes / "test", tmp_path / "p", "--limit", 1) == 0
    assert virft("score", tmp_path / "p", scenes / "train") == 2
    assert "holds predictions for another dataset" in capsys.readouterr().err


def test_an_unknown_class_is_reported_with_the_nearest_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_coco(tmp_path, {"a.png": [("cat", [10, 10, 20, 30])]})
    coco = ("build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "d")
    assert virft(*coco, "--classes", "cta") == 2
    printed = capsys.readouterr().err
    assert "cta" in printed
    assert "cat" in printed
    assert virft("build", "scenes", tmp_path / "s", "--classes", "pandda", "--shots", 1) == 2
    assert "did you mean 'panda'?" in capsys.readouterr().err
    assert not (tmp_path / "d").exists() and not (tmp_path / "s").exists()


def test_a_dataset_is_replaced_only_with_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("build", "scenes", tmp_path / "s", "--classes", "panda", "--shots", 1)
    assert virft(*argv) == 0
    before = files(tmp_path / "s")
    assert virft(*argv, "--seed", 1) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert files(tmp_path / "s") == before
    assert virft(*argv, "--seed", 1, "--overwrite") == 0
    assert files(tmp_path / "s") != before


def test_a_run_whose_data_changed_is_not_resumed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, data)
    assert virft("grpo", config, "grpo.steps=1") == 0
    save_image(tmp_path / "images" / "c.png", (64, 48))
    edit_json(tmp_path / "annotations.json", lambda tree: tree["annotations"].pop())
    coco = ("build", "coco", tmp_path / "annotations.json", tmp_path / "images", data, "--overwrite")
    assert virft(*coco) == 0
    assert virft("grpo", config, "grpo.steps=1", "--resume") == 2
    assert "run: was started on other data (hash " in capsys.readouterr().err


def test_a_reward_that_is_no_number_stops_the_run_by_name(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("def odd(reading, target, context):\n    return float('nan')\n")
    config = write_config(tmp_path, scenes / "train", extra=f'reward.extra = ["{tmp_path / "mine.py"}:odd"]\n')
    assert virft("grpo", config) == 2
    printed = capsys.readouterr().err
    assert "mine.py:odd returned nan" in printed
    assert "returned nan; expected a finite number in [-1, 1]" in printed


def test_an_error_is_one_line_of_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"schema_version": 1}))
    (tmp_path / "samples.jsonl").touch()
    assert virft("predict", "virft-tiny", tmp_path, tmp_path / "p") == 2
    assert capsys.readouterr().err == (
        f"virft: {tmp_path / 'card.json'}: schema_version is 1; expected 2; "
        "build the dataset again with `virft build`\n"
    )
