"""Counting from build to scores, without a line about it outside of its own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factories import edit_json, save_coco
from runs import log, virft, write_config
from virft.data.store import Store
from virft.tasks.counting import Count

BOX = [10, 10, 12, 12]
SHOWN = {
    "a.png": [("cat", BOX), ("cat", [30, 10, 12, 12]), ("dog", [30, 30, 9, 9])],
    "b.png": [("cat", BOX)],
    "c.png": [("dog", BOX), ("dog", [30, 10, 12, 12]), ("dog", [40, 30, 10, 10])],
    "d.png": [("cat", BOX), ("dog", [30, 10, 12, 12])],
}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Counts of cats and dogs; in d.png the dogs are a crowd, so their number is unknown."""
    path = save_coco(tmp_path, SHOWN)

    def make_crowd(tree: dict) -> None:  # type: ignore[type-arg]
        tree["annotations"][-1]["iscrowd"] = 1
        # a second dog with a box of its own: the class is there, its number is not known
        tree["annotations"].append({**tree["annotations"][-1], "id": 99, "iscrowd": 0, "bbox": [50, 30, 9, 9]})

    edit_json(path, make_crowd)
    return path


def test_counts_come_from_boxes_and_unknown_ones_are_skipped(annotations: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    images = tmp_path / "images"
    assert virft("build", "coco", annotations, images, out, "--task", "counting", "--negatives-frac", 0.25) == 0
    store = Store(out)
    found = {sample.id: sample.target for sample in store}
    absent = {"b.png:dog", "c.png:cat"}
    assert {name: target for name, target in found.items() if name not in absent} == {
        "a.png:cat": Count(2),
        "a.png:dog": Count(1),
        "b.png:cat": Count(1),
        "c.png:dog": Count(3),
        "d.png:cat": Count(1),
    }
    # 5 present, 0.25 / 0.75 of them: 2 absent
    assert {name: target for name, target in found.items() if name in absent} == dict.fromkeys(absent, Count(0))
    assert store.card["source"]["num_undetermined"] == 1
    assert store.card["negatives_frac"] == pytest.approx(2 / 7, abs=1e-6)
    assert store.card["counts"]["counting"]["dog"] == {"questions": 3, "objects": 4, "absent": 1}
    lines = (out / "samples.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["target"] == {"count": 2}


def test_a_task_without_boxes_cannot_be_built_from_boxes(annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        virft("build", "coco", annotations, tmp_path / "images", tmp_path / "data", "--task", "grounding")


def test_a_model_learns_to_count_and_is_scored(
    annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "predictions"
    command = ("build", "coco", annotations, tmp_path / "images", data)
    assert virft(*command, "--task", "counting", "--negatives-frac", 0.25) == 0
    capsys.readouterr()
    assert virft("check", data) == 0
    head, cat, *_ = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["task", "class", "questions", "absent", "objects"]
    assert cat == ["counting", "cat", "4", "1", "4"]
    assert virft("grpo", write_config(tmp_path, data), "grpo.steps=1", "sampling.max_completion_tokens=16") == 0
    assert "reward_count" in log(tmp_path / "run")[0]
    assert virft("predict", tmp_path / "run" / "model", data, out, "--max-completion-tokens", 16) == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    written = [line | {"text": "<answer>one</answer>"} for line in lines]
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    assert virft("score", out, data, "--class-group", "cats=cat", "--class-group", "dogs=dog") == 0
    scores = json.loads((out / "scores.json").read_text())["tasks"]["counting"]
    # of 2 1 0 1 cats and 1 0 3 dogs, one is exact for b, d of the cats and a of the dogs
    assert scores["values"]["accuracy"] == pytest.approx(3 / 7, abs=1e-6)
    assert scores["values"]["mean_absolute_error"] == pytest.approx((1 + 0 + 1 + 0 + 0 + 1 + 2) / 7, abs=1e-6)
    assert scores["values"]["accuracy@cats"] == 0.5
    assert scores["tables"]["accuracy"] == {"cat": 0.5, "dog": pytest.approx(1 / 3, abs=1e-6)}
    assert scores["protocol"].startswith("positives+negatives (0.286 absent")


def test_an_image_is_queried_for_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_coco(tmp_path, {"a.png": [("cat", BOX)]})
    command = ("ask", "virft-tiny", tmp_path / "images" / "a.png", "fox", "--task", "counting")
    assert virft(*command, "--out", tmp_path / "answer.png", "--max-completion-tokens", 16) == 0
    assert "answer: " in capsys.readouterr().out
    explain = ("explain", "<answer>three</answer>", "--task", "counting", "--target", "4")
    assert virft(*explain) == 0
    assert "answer 3, target 4" in capsys.readouterr().out
