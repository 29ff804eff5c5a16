"""Tasks of lmms-eval: the calls that lmms-eval makes, and its log of samples."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from factories import detections, sample, save_image
from virft.cli.main import main
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, DataError
from virft.evaluation.predictions import read_predictions
from virft.evaluation.score import score_predictions
from virft.geometry.boxes import BoxSpace
from virft.integrations.lmms_eval import export_lmms_eval, predictions_of_log
from virft.types import Label

ANSWERS = {
    "1": "<answer>[{'Position':[160,210,480,830],'Confidence':0.8}]</answer>",
    "2": "<answer>[{'Position':[0,0,480,830],'Confidence':0.7}]</answer>",
    "3": "<answer>Red fox</answer>",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save_image(tmp_path / "a.png")
    with StoreWriter(tmp_path / "d") as writer:
        writer.add_image_file("a.png", tmp_path / "a.png")
        writer.add(sample(detections((10, 10, 30.5, 40)), id="1"))
        writer.add(sample(detections(), id="2", query="hen", question="Any hens?"))
        writer.add(sample(Label(text="red fox"), id="3", task="classification", query="animal"))
        writer.finish(source={}, seed=0)
    return tmp_path / "d"


def export(data: Path, *options: str) -> Path:
    out = data.parent / "task"
    assert main(["export", str(data), str(out), "--format", "lmms-eval", *options]) == 0
    return out


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def function_of(task_file: Path, key: str):
    """The function that the task file names, imported as lmms-eval does."""
    name = re.search(rf"{key}: !function (\S+)", task_file.read_text())[1]
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function)


def test_the_metrics_of_a_task_are_those_of_virft_score(data: Path) -> None:
    file = export(data) / "virft_d.yaml"
    process = function_of(file, "process_results")
    found = [process(row, [ANSWERS[row["sample_id"]]]) for row in rows_of(file.parent)]
    metrics = re.findall(r"metric: (\S+)\n    aggregation: !function \S+\.(\S+)", file.read_text())
    values = {}
    for metric, aggregation in metrics:
        module = importlib.import_module("virft.integrations.lmms_eval")
        values[metric] = getattr(module, aggregation)([one[metric] for one in found])
    # one hit of two boxes, one target
    assert values["detection_f1"] == pytest.approx(2 / 3)
    assert values["classification_accuracy"] == 1.0
    log = data.parent / "samples.jsonl"
    log.write_text("".join(json.dumps({"target": id, "filtered_resps": text}) + "\n" for id, text in ANSWERS.items()))
    path = predictions_of_log(log, file.parent, data.parent / "p")
    scores = {
        f"{one.task}_{name}": value
        for one in score_predictions(path, Store(data))
        for name, value in one.values.items()
    }
    assert values == pytest.approx({name: scores[name] for name, _ in metrics}, abs=1e-6)


def test_a_row_gives_question_and_upright_images(data: Path) -> None:
    file = export(data, "--name", "mine", "--template", "short", "--max-completion-tokens", "99") / "mine.yaml"
    first, second, _ = rows_of(file.parent)
    (image,) = function_of(file, "doc_to_visual")(first)
    assert (image.size, image.mode) == ((64, 48), "RGB")
    assert function_of(file, "doc_to_text")(first).startswith("Detect fox.")
    assert function_of(file, "doc_to_text")(second, {}) == "Any hens?"
    assert "task: mine\n" in file.read_text()
    assert "max_new_tokens: 99\n" in file.read_text()


@pytest.mark.parametrize("name", ["my task", "a/b", "..", "a: b", ""])
def test_a_name_that_is_no_file_name_is_refused(data: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--name .*: expected letters, digits"):
        export_lmms_eval(
            Store(data),
            data.parent / "o",
            name=name,
            template="short",
            thinking=False,
            space=BoxSpace.RELATIVE_1000,
            max_completion_tokens=9,
        )
    assert not (data.parent / "o").exists()


def test_part_of_a_dataset_is_scored_as_far_as_it_was_answered(data: Path) -> None:
    file = export(data) / "virft_d.yaml"
    found = function_of(file, "process_results")(rows_of(file.parent)[0], [ANSWERS["1"]])
    assert function_of(file, "metric: detection_f1\n    aggregation")([found["detection_f1"]]) == 1.0


def test_thoughts_come_from_the_text_before_filters(data: Path) -> None:
    task = export(data, "--thinking")
    log = data.parent / "samples.jsonl"
    text = "<think>red fur</think><answer>red fox</answer>"
    log.write_text(json.dumps({"target": "3", "resps": [[text]], "filtered_resps": "<answer>red fox</answer>"}))
    path = predictions_of_log(log, task, data.parent / "p")
    assert read_predictions(path)["3"].prediction.text == text


@pytest.mark.parametrize(
    "line",
    ["{}", "[]", "oops", '{"target": "1", "filtered_resps": ["a", "b"]}', '{"target": "1", "filtered_resps": 3}'],
)
def test_another_file_is_no_log_of_samples(data: Path, line: str) -> None:
    task, log = export(data), data.parent / "samples.jsonl"
    log.write_text(line)
    with pytest.raises(DataError, match=r"samples\.jsonl:1: not a sample of lmms-eval"):
        predictions_of_log(log, task, data.parent / "p")


def test_a_dataset_that_changed_after_the_export_is_refused(data: Path) -> None:
    file = export(data) / "virft_d.yaml"
    found = function_of(file, "process_results")(rows_of(file.parent)[0], [ANSWERS["1"]])
    with StoreWriter(data, overwrite=True) as writer:
        writer.add_image_file("a.png", data.parent / "a.png")
        writer.add(sample(detections((10, 10, 30, 40)), id="1"))
        writer.finish(source={}, seed=0)
    with pytest.raises(DataError, match="has changed since the export"):
        function_of(file, "metric: detection_f1\n    aggregation")([found["detection_f1"]])


def test_pixels_of_the_resized_image_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(data), str(data.parent / "task"), "--format", "lmms-eval", "--space", "resized_pixels"]
    assert main(command) == 2
    assert "depend on the model" in capsys.readouterr().err


def test_other_attributes_of_the_module_do_not_exist() -> None:
    module = importlib.import_module("virft.integrations.lmms_eval")
    assert not hasattr(module, "detection_f1")
