"""Several classes in one question, from COCO to a trained model, its scores and its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from factories import save_coco
from runs import log, virft, write_config
from virft.data.augmentation import AugmentationLimits, augment_sample
from virft.data.store import Store
from virft.geometry.boxes import BoxSpace
from virft.integrations.rows import RowGrader
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import LabelledDetections, RewardContext

SHOWN = {
    "a.png": [("cat", [10, 10, 12, 12]), ("dog", [30, 30, 9, 9])],
    "b.png": [("cat", [20, 5, 20, 20])],
    "c.png": [("dog", [10, 10, 12, 12]), ("dog", [30, 10, 12, 12])],
    "d.png": [],
}
CLASSES = ("cat", "dog", "hen")
RIGHT = {
    "a.png": "[{'Position':[156,208,344,458],'Label':'cat','Confidence':0.9},"
    '{"bbox_2d":[469,625,609,812],"label":"Dog"}]',
    "b.png": '[{"bbox_2d": [312, 104, 625, 521], "label": "dog"}]',  # the cat's box with another label
    "c.png": "[{'Position':[156,208,344,458],'Label':'dog','Confidence':0.9}]",
    "d.png": "No Objects",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    annotations = save_coco(tmp_path, SHOWN, categories=CLASSES)  # type: ignore[arg-type]
    command = ("build", "coco", annotations, tmp_path / "images", tmp_path / "data", "--per-image")
    assert virft(*command) == 0
    return tmp_path / "data"


def test_one_question_per_image_about_another_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (("--per-image", "--task", "counting"), ("--task", "counting", "--per-image")):
        with pytest.raises(SystemExit):
            virft("build", "coco", "annotations.json", "-", "data", *options)
        assert "not allowed with argument --" in capsys.readouterr().err


def test_yes_no_questions_need_boxes_with_confidences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    virft("build", "coco", save_coco(tmp_path, SHOWN, categories=CLASSES), "-", tmp_path / "d", "--task", "pointing")  # type: ignore[arg-type]
    assert virft("predict", "virft-tiny", tmp_path / "d", tmp_path / "out", "--yes-no") == 2
    message = f"--yes-no: {tmp_path / 'd'} is of pointing; expected detection or multiclass_detection"
    assert message in capsys.readouterr().err


def test_a_question_is_about_every_class_of_an_image(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(data)
    assert [one.query for one in store] == ["cat, dog, hen"] * 4
    assert [len(one.target.items) for one in store if isinstance(one.target, LabelledDetections)] == [2, 1, 2, 0]
    capsys.readouterr()
    assert virft("check", data) == 0
    head, row, *_ = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["task", "class", "questions", "boxes", "small", "medium", "large", "classes", "absent_classes"]
    assert row == ["multiclass_detection", "all", "4", "5", "5", "0", "0", "12", "8"]


def test_a_model_learns_it_and_is_scored(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "predictions"
    assert virft("grpo", write_config(tmp_path, data), "grpo.steps=1", "sampling.max_completion_tokens=32") == 0
    assert {"reward_iou", "reward_class_f1", "boxes_per_answer"} <= log(tmp_path / "run")[0].keys()
    assert virft("predict", tmp_path / "run" / "model", data, out, "--max-completion-tokens", 32) == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        del line["token_logprobs"], line["token_ends"]
        line["text"] = f"<answer>{RIGHT[line['sample_id']]}</answer>"
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert virft("score", out, data) == 0
    scores = json.loads((out / "scores.json").read_text())["tasks"]["multiclass_detection"]
    # hits: cat and dog of a, a dog of c; 4 boxes, 5 targets
    assert scores["values"]["f1"] == pytest.approx(6 / 9, abs=1e-6)
    assert scores["values"]["label_accuracy"] == pytest.approx(3 / 4, abs=1e-6)
    assert scores["tables"]["f1"] == {"cat": pytest.approx(2 / 3, abs=1e-6), "dog": pytest.approx(4 / 6, abs=1e-6)}
    # cat: recall 0.5 at precision 1; dog: at confidence 1 a hit and a false positive, then a hit, of 3 targets
    assert set(scores["tables"]["ap"]) == {"cat", "dog"}
    report = tmp_path / "report.html"
    assert virft("report", tmp_path / "run", "--out", report) == 0
    assert report.stat().st_size > 10_000


def test_crops_and_flips_move_the_boxes_of_every_class(data: Path) -> None:
    sample = Store(data)[0]
    limits = AugmentationLimits(resized_crop=0.3, horizontal_flip=True)
    moved = augment_sample(sample, np.random.default_rng(0), limits)
    assert isinstance(moved.target, LabelledDetections)
    assert isinstance(sample.target, LabelledDetections)
    assert [item.label for item in moved.target.items] == ["cat", "dog"]
    assert all(a.box != b.box for a, b in zip(moved.target.items, sample.target.items, strict=True))
    assert moved.target.classes == CLASSES


def test_an_image_is_queried_for_several_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_coco(tmp_path, SHOWN, categories=CLASSES)  # type: ignore[arg-type]
    command = ("ask", "virft-tiny", tmp_path / "images" / "a.png", "fox, owl", "--task", "multiclass_detection")
    assert virft(*command, "--out", tmp_path / "answer.png", "--max-completion-tokens", 32) == 0
    assert "answer: " in capsys.readouterr().out
    target = "[{'Position':[156,208,344,458],'Label':'cat'},{'Position':[500,500,600,600],'Label':'dog'}]"
    answer = "<answer>[{'Position':[156,208,344,458],'Label':'cat','Confidence':0.9}]</answer>"
    assert virft("explain", answer, "--task", "multiclass_detection", "--target", target) == 0
    assert "target 1, IoU 1.000, hit" in capsys.readouterr().out


def test_rows_of_other_trainers_are_graded_alike(data: Path, tmp_path: Path) -> None:
    assert virft("export", data, tmp_path / "rows", "--format", "trl", "--template", "paper") == 0
    rows = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()]
    grader = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000)
    for row, sample in zip(rows, Store(data), strict=True):
        text = f"<answer>{RIGHT[sample.id]}</answer>"
        own = grader.grade(text, sample, resized=sample.target_size, context=RewardContext())
        assert RowGrader(box_space="relative_1000", thinking=False).grade(text, row).parts == own.parts
    rebuilt = ("build", "rows", tmp_path / "rows" / "rows.jsonl", data, tmp_path / "again")
    for row in rows:
        row["image"] = str(Path(row.pop("images")[0]).relative_to(data.resolve()))
    (tmp_path / "rows" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert virft(*rebuilt) == 0
    assert [one.target for one in Store(tmp_path / "again")] == [one.target for one in Store(data)]


def test_coco_and_yolo_files_are_read_back(data: Path, tmp_path: Path) -> None:
    assert virft("export", data, tmp_path / "coco", "--format", "coco") == 0
    command = ("build", "coco", tmp_path / "coco" / "annotations.json", data, tmp_path / "again", "--per-image")
    assert virft(*command) == 0
    assert virft("export", data, tmp_path / "yolo", "--format", "yolo") == 0
    assert virft("build", "yolo", tmp_path / "yolo", tmp_path / "from_yolo", "--per-image") == 0
    targets = [one.target for one in Store(data)]
    assert [one.target for one in Store(tmp_path / "again")] == targets
    found = [one.target for one in Store(tmp_path / "from_yolo")]
    for target, other in zip(targets, found, strict=True):
        assert isinstance(target, LabelledDetections)
        assert isinstance(other, LabelledDetections)
        assert other.classes == target.classes
        assert [item.label for item in other.items] == [item.label for item in target.items]
