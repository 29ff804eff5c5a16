"""Short answers from rows of questions to scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from factories import save_image
from runs import log, virft, write_config
from virft.data.sources.rows import row_schema
from virft.data.store import Store
from virft.types import ShortAnswer

ROWS = [
    {"image": "a.png", "query": "What colour is the car?", "target": {"answers": ["red", "crimson"]}},
    {
        "image": "a.png",
        "query": "How long is the bar?",
        "target": {"answers": [200], "kind": "number", "relative_tolerance": 0.05},
    },
    {
        "image": "b.png",
        "query": "What is it? A. a fox B. an owl",
        "target": {"answers": ["B"], "kind": "choice", "options": ["a fox", "an owl"]},
    },
    {"image": "b.png", "query": "What does the sign say?", "target": {"answers": ["STOP"], "kind": "ocr"}},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        save_image(tmp_path / "images" / name)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    schema = Draft202012Validator(row_schema())
    assert all(schema.is_valid(row) for row in ROWS)
    assert virft("build", "rows", path, tmp_path / "images", tmp_path / "data") == 0
    return tmp_path / "data"


def test_a_model_is_trained_and_scored(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert virft("check", data) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines()[:2])
    assert dict(zip(head, row, strict=True)) == {
        "task": "short_answer",
        "class": "all",
        "questions": "4",
        **dict.fromkeys(("text", "number", "choice", "ocr"), "1"),
    }
    assert virft("grpo", write_config(tmp_path, data), "grpo.steps=1", "sampling.max_completion_tokens=16") == 0
    assert "reward_answer" in log(tmp_path / "run")[0]
    out = tmp_path / "predictions"
    assert virft("predict", tmp_path / "run" / "model", data, out, "--max-completion-tokens", 16) == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    texts = dict(zip((one.id for one in Store(data)), ("Crimson.", "195", "a fox", "STOPP"), strict=True))
    written = [
        {**line, "text": f"<answer>{texts[line['sample_id']]}</answer>", "token_logprobs": [], "token_ends": []}
        for line in lines
    ]
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    assert virft("score", out, data) == 0
    scores = json.loads((out / "scores.json").read_text())["tasks"]["short_answer"]
    assert scores["values"]["mean_score"] == pytest.approx((1 + 1 + 0 + 0.8) / 4)
    assert scores["values"]["accuracy"] == 0.5
    assert scores["tables"]["mean_score_by_kind"] == {"choice": 0.0, "number": 1.0, "ocr": 0.8, "text": 1.0}


def test_conversations_become_short_answers(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png")
    turns = [{"from": "human", "value": "<image>How many legs?"}, {"from": "gpt", "value": "4"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "conversations": turns}) + "\n")
    command = ("build", "rows", tmp_path / "rows.jsonl", tmp_path / "images", tmp_path / "data")
    assert virft(*command, "--task", "short_answer") == 0
    (one,) = Store(tmp_path / "data")
    assert (one.target, one.question) == (ShortAnswer(answers=("4",)), "How many legs?")


def test_an_answer_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("explain", "<answer>The dog</answer>", "--task", "short_answer", "--target", "dog") == 0
    assert "answer 'The dog', target dog, kind text, score 1.000" in capsys.readouterr().out
