"""A new task is one file and one row: every verb works on it without any other change of the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from colour_task import COLOUR, Colour
from runs import log, virft, write_config
from virft.data.sources.rows import row_schema
from virft.data.store import Store
from virft.inference.queries import read_query_line
from virft.publishing.model_card import renew_card
from virft.report.render.samples import summarize, write_samples_page
from virft.tasks import TASKS

COLOURS = [(255, 0, 0), (0, 200, 0), (0, 0, 255), (250, 250, 0)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of the task, built from rows, while its row is in ``TASKS``."""
    monkeypatch.setitem(TASKS, COLOUR.name, COLOUR)  # type: ignore[arg-type]
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (64, 64), colour).save(images / f"{number}.png")
        rows.append({"image": f"{number}.png", "query": "the wall", "target": {"colour": list(colour)}})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema = Draft202012Validator(row_schema())
    assert all(schema.is_valid(row) for row in rows)
    assert virft("build", "rows", path, images, tmp_path / "data") == 0
    return tmp_path / "data"


def test_rows_become_samples_that_are_checked_and_previewed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(data)
    assert [one.target for one in store] == [Colour(*colour) for colour in COLOURS]
    assert json.loads((data / "samples.jsonl").read_text().splitlines()[0])["target"] == {"colour": [255, 0, 0]}
    capsys.readouterr()
    assert virft("check", data) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["colour", "all", "4"]
    page = "".join(write_samples_page((("", [one]) for one in store), title="t", summary=summarize(store), intro="i"))
    assert "<b>the wall</b>: #ff0000" in page
    assert (
        read_query_line(b'{"image": "a.png", "question": "wall", "task": "colour"}', task="detection").task == "colour"
    )


def test_an_invalid_target_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colours = {"wall": [1, 2, 3], "door": [1, 2, 300]}
    rows = [{"image": "0.png", "query": name, "target": {"colour": colour}} for name, colour in colours.items()]
    (tmp_path / "more.json").write_text(json.dumps(rows))
    assert virft("build", "rows", tmp_path / "more.json", tmp_path / "images", tmp_path / "more") == 0
    assert "colour is [1, 2, 300]; expected [red, green, blue] from 0 to 255" in capsys.readouterr().out
    (tmp_path / "none.json").write_text(json.dumps([{"image": "0.png", "query": "wall", "target": {"color": 1}}]))
    assert virft("build", "rows", tmp_path / "none.json", tmp_path / "images", tmp_path / "none") == 2
    assert "expected an object with boxes, label, box" in (error := capsys.readouterr().err)
    assert "or colour" in error


def test_a_completion_is_explained(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("explain", "<answer>#ff0000</answer>", "--task", "colour", "--target", "#ff3300")
    assert virft(*command) == 0
    # 51 of 3 * 255: 1 / 15 away
    assert capsys.readouterr().out.splitlines() == [
        "colour, robust",
        "part            value   weight    total",
        "closeness       0.933    1.000    0.933",
        "format          1.000    1.000    1.000",
        "total                             1.933",
        "answer #ff0000, target #ff3300",
    ]
    assert virft(*command, "--preset", "paper") == 0
    assert "closeness       0.000" in capsys.readouterr().out
    assert virft(*command[:-1], "red") == 2
    assert "--target 'red': no colour such as #ff0000; expected an answer of colour" in capsys.readouterr().err


def test_a_model_is_trained_scored_and_reported(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, data, extra=f'data.validation = "{data}"\nreward.weights = {{ closeness = 2 }}\n')
    run = tmp_path / "run"
    assert virft("grpo", config, "grpo.steps=2", "sampling.max_completion_tokens=16") == 0
    assert "reward_closeness" in log(run)[1]
    assert "validation_closeness" in log(run)[0]
    assert log(run)[0]["validation_score"] == log(run)[0]["validation_closeness"]
    rollout = log(run, "rollouts.jsonl")[0]
    assert "Colour of the wall?" in rollout["prompt"]
    assert rollout["best"]["boxes"] == []
    sft = tmp_path / "sft"
    settings = ("sft.steps=2", "sft.samples_per_step=2", "sft.warmup_steps=1", f"run.dir={sft}")
    assert virft("sft", config, *settings) == 0
    assert len([one for one in log(sft) if "loss" in one]) == 2

    out = run / "eval" / "data"
    assert virft("predict", run / "model", data, out, "--max-completion-tokens", 16) == 0
    scores = json.loads((out / "scores.json").read_text())["tasks"]["colour"]
    assert scores["num_samples"] == 4
    assert scores["protocol"] == "all"
    assert list(scores["values"]) == ["closeness", "unreadable_frac", "well_formed_frac", "truncated_frac"]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    answers = [
        "<answer>#ff0000</answer>",
        "<answer>#00c800</answer>",
        "<answer>blue</answer>",
        "<answer>#fafa33</answer>",
    ]
    written = [line | {"text": text} for line, text in zip(lines, answers, strict=True)]
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    assert virft("score", run, data) == 0
    scores = json.loads((out / "scores.json").read_text())["tasks"]["colour"]
    # 51 of 3 * 255 away, and one that is unreadable
    assert scores["values"]["closeness"] == pytest.approx((1 + 1 + 0 + 14 / 15) / 4)
    assert scores["values"]["unreadable_frac"] == 0.25
    blind = json.loads((out / "scores.json").read_text())["blind"]
    # the dataset is the training set: a baseline that is fitted on it would be fitted on the test set
    assert blind == {"train": [], "note": "the model was trained on this very dataset", "tasks": {}}
    low, high = scores["intervals"]["closeness"]
    assert low < scores["values"]["closeness"] < high

    assert virft("report", run, "--out", tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text()
    assert "1 minus the mean distance of red, green and blue" in page
    assert "unreadable: no colour such as #ff0000" in page
    assert "#fafa33" in page
    assert "closeness (colour)" in page
    renew_card(run / "model")
    card = (run / "model" / "README.md").read_text()
    assert "| colour | Colour of {query}? |" in card
    assert "| closeness | 0.733 (" in card


def test_the_reward_is_audited(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("audit", write_config(tmp_path, data)) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "colour, 4 questions"
    (grey,) = (line for line in lines if "always grey" in line)
    # 127 + 128 + 128, 128 + 72 + 128, 128 + 128 + 127 and 122 + 122 + 128 of 3 * 255 away; and the format
    assert float(grey.split()[3]) == pytest.approx(2 - (383 + 328 + 383 + 372) / 4 / 765, abs=1e-3)
    (correct,) = (line for line in lines if line.split()[:2] == ["oracle", "correct"])
    assert correct.split()[2:4] == ["2.000", "1.000"]


def test_it_is_exported_with_questions_and_answers(data: Path, tmp_path: Path) -> None:
    assert virft("export", data, tmp_path / "trl", "--format", "trl") == 0
    row = json.loads((tmp_path / "trl" / "rows.jsonl").read_text().splitlines()[0])
    assert row["target"] == {"colour": [255, 0, 0]}
    assert "Which colour is most frequent in the wall?" in row["prompt"][0]["content"][-1]["text"]
    from virft.integrations.rows import RowGrader, ground_truth_of, row_of_ground_truth

    grader = RowGrader(box_space="relative_1000", thinking=False)
    assert grader.grade("<answer>#ff0000</answer>", row).total == 2.0
    assert grader.grade("<answer>#ff0000</answer>", row_of_ground_truth(ground_truth_of(row))).total == 2.0
    assert virft("export", data, tmp_path / "lf", "--format", "llama-factory") == 0
    (first, *_) = json.loads((tmp_path / "lf" / "virft.json").read_text())
    assert first["messages"][1]["content"] == "<answer>#ff0000</answer>"
