"""Pointing from boxes to scores: build, check, explain, train, predict, score, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factories import save_coco
from runs import log, virft, write_config
from virft.data.store import Store
from virft.geometry.points import point_target
from virft.types import Box, Points

BOX = [10, 10, 12, 12]
SHOWN = {
    "a.png": [("cat", BOX), ("cat", [30, 10, 12, 12]), ("dog", [30, 30, 9, 9])],
    "b.png": [("cat", BOX)],
    "c.png": [("dog", BOX)],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path, out = save_coco(tmp_path, SHOWN), tmp_path / "data"
    command = ("build", "coco", path, tmp_path / "images", out)
    assert virft(*command, "--task", "pointing", "--negatives-frac", 0.25) == 0
    return out


def test_targets_are_the_boxes_of_a_class(data: Path) -> None:
    found = {sample.id: sample.target for sample in Store(data)}
    first, second = Box(x1=10, y1=10, x2=22, y2=22), Box(x1=30, y1=10, x2=42, y2=22)
    assert found["a.png:cat"] == point_target([first, second])
    assert [target for name, target in found.items() if name in ("b.png:dog", "c.png:cat")] == [Points()]


def test_a_model_is_trained_and_scored(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert virft("check", data) == 0
    head, cat, *_ = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:5] == ["task", "class", "questions", "absent", "boxes"]
    assert cat[:3] == ["pointing", "cat", "2"] or cat[:3] == ["pointing", "cat", "3"]
    settings = (
        "grpo.steps=1",
        "sampling.max_completion_tokens=16",
        "grpo.demonstrations=group",
        "grpo.near_right=true",
    )
    assert virft("grpo", write_config(tmp_path, data), *settings) == 0
    assert {"reward_hit", "reward_closeness"} <= log(tmp_path / "run")[0].keys()
    out = tmp_path / "predictions"
    assert virft("predict", tmp_path / "run" / "model", data, out, "--max-completion-tokens", 16) == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    # (16, 16) of 64 x 48 pixels: inside the box that a, b and c share
    text = '<answer>[{"point_2d": [250, 333], "label": "x"}]</answer>'
    written = [{**line, "text": text, "token_logprobs": [], "token_ends": []} for line in lines]
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    assert virft("score", out, data) == 0
    scores = json.loads((out / "scores.json").read_text())["tasks"]["pointing"]
    # 5 objects; points on a:cat, b:cat and c:dog are hits, those of a:dog and of the absent class are not
    assert scores["values"]["recall"] == pytest.approx(3 / 5, abs=1e-6)
    assert scores["values"]["precision"] == pytest.approx(3 / 5, abs=1e-6)
    assert scores["values"]["f1"] == pytest.approx(3 / 5, abs=1e-6)
    assert scores["tables"]["f1"].keys() == {"cat", "dog"}
    assert virft("report", tmp_path / "run") == 0


def test_a_target_of_explain_is_written_as_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    explain = ("explain", "<answer>[[50, 50], [900, 900]]</answer>", "--task", "pointing")
    assert virft(*explain, "--target", "[[0, 0, 100, 100], [500, 500, 700, 700]]") == 0
    out = capsys.readouterr().out
    assert "2 predicted, 2 to find, a hit is a point on the object" in out
    assert "object 1, closeness 1.000, hit" in out
    assert "no object, miss" in out
    assert "object 2 [500.0, 500.0, 700.0, 700.0] not found" in out


def test_an_image_is_queried_and_points_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_coco(tmp_path, {"a.png": [("cat", BOX)]})
    command = ("ask", "virft-tiny", tmp_path / "images" / "a.png", "fox", "--task", "pointing")
    assert virft(*command, "--out", tmp_path / "answer.png", "--max-completion-tokens", 16) == 0
    assert "answer: " in capsys.readouterr().out


def test_scenes_have_pointing_questions(tmp_path: Path) -> None:
    pointing, boxes = tmp_path / "pointing", tmp_path / "boxes"
    for task, out in (("pointing", pointing), ("detection", boxes)):
        assert virft("build", "scenes", out, "--task", task, "--classes", "novel", "--questions", 10, "--seed", 3) == 0
    pairs = list(zip(Store(pointing), Store(boxes), strict=True))
    assert all(one.query == other.query for one, other in pairs)
    assert all(one.target == point_target([item.box for item in other.target.items]) for one, other in pairs)  # type: ignore[attr-defined]
    assert any(one.target == Points() for one, _ in pairs)
