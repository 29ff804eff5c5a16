"""Scores of short answers equal those of the published evaluations, and no answer earns by covering several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import reading
from virft.metrics.short_answers import SCORE_OF_KIND, anls, score_short_answer, short_answer_metrics, vqa_accuracy
from virft.types import ShortAnswer, Unreadable

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "short_answer_metrics.json").read_text())


def score(text: str, kind: str, *answers: str, **more: Any) -> float:
    return score_short_answer(ShortAnswer(answers=(text,)), ShortAnswer(kind=kind, answers=answers, **more))


@pytest.mark.parametrize(("text", "answers", "expected"), GOLDEN["vqa"])
def test_vqa_accuracy_is_that_of_the_published_evaluation(text: str, answers: list[str], expected: float) -> None:
    assert vqa_accuracy(text, answers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("text", "target", "expected"), GOLDEN["relaxed"])
def test_a_relative_tolerance_of_5_percent_is_chartqas_relaxed_accuracy(text: str, target: str, expected: bool) -> None:
    assert score(text, "number", target, relative_tolerance=0.05) == float(expected)


@pytest.mark.parametrize(("text", "answers", "expected"), GOLDEN["anls"])
def test_anls_is_that_of_the_published_evaluation(text: str, answers: list[str], expected: float) -> None:
    assert anls(text, answers) == pytest.approx(expected, abs=1e-12)


COLOURS = {"options": ("red", "blue", "green")}


@pytest.mark.parametrize(
    ("text", "kind", "answers", "more", "expected"),
    [
        ("The dog.", "text", ("cat", "dog"), {}, 1.0),
        ("dogs", "text", ("cat", "dog"), {}, 0.0),
        ("cat dog", "text", ("cat", "dog"), {}, 0.0),
        ("cat or dog", "text", ("cat", "dog"), {}, 0.0),
        ("12", "number", ("12",), {}, 1.0),
        ("twelve", "number", ("12",), {}, 1.0),
        ("12.5", "number", ("12",), {"absolute_tolerance": 0.5}, 1.0),
        ("12.6", "number", ("12",), {"absolute_tolerance": 0.5}, 0.0),
        ("10-14", "number", ("12",), {"absolute_tolerance": 5.0}, 0.0),
        ("11 12 13", "number", ("12",), {"absolute_tolerance": 5.0}, 0.0),
        ("unknown", "number", ("12",), {"absolute_tolerance": 5.0}, 0.0),
        ("b", "choice", ("B",), COLOURS, 1.0),
        ("blue", "choice", ("B", "C"), COLOURS, 1.0),
        ("A", "choice", ("B",), COLOURS, 0.0),
        ("A B C", "choice", ("B",), COLOURS, 0.0),
        ("blue, red", "list", ("red", "blue"), {}, 1.0),
        ("red", "list", ("red", "blue"), {}, 2 / 3),
        ("red, red", "list", ("red", "blue"), {}, 0.5),
        ("red, blue, green, black", "list", ("red", "blue"), {}, 2 / 3),
        ("STOPP", "ocr", ("stop",), {}, 0.8),
    ],
)
def test_scores_by_kind(text: str, kind: str, answers: tuple[str, ...], more: dict[str, Any], expected: float) -> None:
    assert score(text, kind, *answers, **more) == pytest.approx(expected)


@given(
    st.text(max_size=40), st.sampled_from(sorted(SCORE_OF_KIND)), st.lists(st.text(min_size=1, max_size=8), min_size=1)
)
def test_scores_are_between_0_and_1(text: str, kind: str, answers: list[str]) -> None:
    assert 0.0 <= score(text, kind, *answers, options=("red", "blue")) <= 1.0


def test_metrics_by_kind() -> None:
    pairs = [
        (reading(ShortAnswer(answers=("red",))), ShortAnswer(answers=("red",))),
        (reading(ShortAnswer(answers=("STOPP",))), ShortAnswer(answers=("stop",), kind="ocr")),
        (reading(Unreadable(reason="?")), ShortAnswer(answers=("stop",), kind="ocr")),
    ]
    measured = short_answer_metrics(pairs)
    assert measured.values == {
        "mean_score": pytest.approx(0.6),
        "accuracy": pytest.approx(1 / 3),
        "unreadable_frac": pytest.approx(1 / 3),
    }
    assert measured.tables == {"mean_score_by_kind": {"ocr": 0.4, "text": 1.0}}
