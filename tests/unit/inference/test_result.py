"""An answer in lines for a person and as a record for a program."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asking_factories import answered
from virft.inference.result import as_record, in_lines

# [100, 200, 500, 600] of a thousand on 200 x 100: x / 5, y / 10
ONE = "{'Position': [100, 200, 500, 600], 'Confidence': 0.9}"


@pytest.mark.parametrize(
    ("text", "task", "lines"),
    [
        (
            f"<think>red fur</think><answer>[{ONE}]</answer>",
            "detection",
            [
                "reasoning: red fur",
                "answer: 1 box, in pixels of 200 x 100",
                "  [20.0, 20.0, 100.0, 60.0]  confidence 0.90",
            ],
        ),
        (
            f"<answer>[{ONE}, [1, 2]]</answer>",
            "detection",
            [
                "answer: 1 box, in pixels of 200 x 100",
                "  [20.0, 20.0, 100.0, 60.0]  confidence 0.90",
                "  no box: 2 values in a box; expected 4 numbers: [1, 2]",
            ],
        ),
        ("<answer>No Objects</answer>", "detection", ["answer: no objects"]),
        (
            "<answer>[[1, 2]]</answer>",
            "detection",
            ["answer: no usable box", "  no box: 2 values in a box; expected 4 numbers: [1, 2]"],
        ),
        (
            "<answer>(100,200),(500,600)</answer>",
            "grounding",
            ["answer: 1 box, in pixels of 200 x 100", "  [20.0, 20.0, 100.0, 60.0]"],
        ),
        ("<answer>arctic fox</answer>", "classification", ["answer: arctic fox"]),
        ("a fox", "detection", ["answer: unreadable: no answer block", "text: a fox"]),
    ],
)
def test_an_answer_is_told_in_lines(text: str, task: str, lines: list[str]) -> None:
    assert in_lines(answered(text, task=task)) == lines


def test_an_answer_that_was_cut_is_told() -> None:
    told = in_lines(answered("<answer>[", cut=True))
    assert told[0] == "cut at 2 tokens: see --max-completion-tokens"
    assert as_record(answered("<answer>[", cut=True))["truncated"] is True


@pytest.mark.parametrize(
    ("text", "task", "reading"),
    [
        (
            f"<answer>[{ONE}, [1, 2]]</answer>",
            "detection",
            {
                "boxes": [{"box": [20.0, 20.0, 100.0, 60.0], "confidence": 0.9}],
                "invalid": [{"reason": "2 values in a box; expected 4 numbers", "piece": "[1, 2]"}],
            },
        ),
        ("<answer>No Objects</answer>", "detection", {"boxes": [], "invalid": []}),
        ("<answer>(100,200),(500,600)</answer>", "grounding", {"boxes": [{"box": [20.0, 20.0, 100.0, 60.0]}]}),
        ("<answer>arctic fox</answer>", "classification", {"label": "arctic fox"}),
        ("a fox", "grounding", {"unreadable": "no answer block"}),
    ],
)
def test_a_record_holds_the_reading(text: str, task: str, reading: dict[str, Any]) -> None:
    assert as_record(answered(text, task=task))["reading"] == reading


def test_a_record_holds_question_text_and_size_and_is_json() -> None:
    record = as_record(answered("<think>?</think><answer>No Objects</answer>"))
    assert json.loads(json.dumps(record)) == {
        "image": "a.jpg",
        "question": "fox",
        "task": "detection",
        "image_size": [200, 100],
        "reading": {"boxes": [], "invalid": []},
        "reasoning": "?",
        "text": "<think>?</think><answer>No Objects</answer>",
        "well_formed": False,  # it was not asked to think
        "truncated": False,
    }
