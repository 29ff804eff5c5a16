"""Short answers: VQA's normalisation, numbers, choices, lists and edit distance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.text.short_answers import (
    choice_in,
    edit_distance,
    is_close_number,
    items_in,
    normalize_vqa,
    number_in,
    same_answer,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "short_answer_metrics.json").read_text())
LETTERS = st.text(alphabet="abcä 1", max_size=12)


@pytest.mark.parametrize(("text", "expected"), GOLDEN["normalize"])
def test_normalisation_is_that_of_the_vqa_evaluation(text: str, expected: str) -> None:
    assert normalize_vqa(text) == expected


@given(st.text())
def test_any_text_is_normalised(text: str) -> None:
    assert isinstance(normalize_vqa(text), str)
    number_in(text)
    choice_in(text, ("red", "blue"))
    items_in(text)


def test_answers_of_which_nothing_is_left_are_compared_as_they_are() -> None:
    assert same_answer("THE", "the")
    assert not same_answer("a", "the")
    assert not same_answer("a", "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12.0),
        ("-3.5", -3.5),
        ("−4", -4.0),  # U+2212
        ("+7", 7.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("1,234,567.8", 1234567.8),
        ("1e3", 1000.0),
        ("15%", 0.15),
        ("$1,200", 1200.0),
        ("(7)", 7.0),
        ("There are twelve of them.", 12.0),
        ("none", 0.0),
        ("12,34", None),
        ("3-4", None),
        ("0–100", None),
        ("three to five", None),
        ("1 2 3", None),
        ("1/2", None),
        ("12kg", None),
        ("½", None),
        ("３", None),
        ("--3", None),
        ("e2", None),
        ("%", None),
        ("+e-1%", None),
        ("many", None),
        ("", None),
        ("9" * 400, None),
        ("1e999", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_the_one_number_of_a_text(text: str, number: float | None) -> None:
    assert number_in(text) == number


def test_tolerances_are_inclusive() -> None:
    assert is_close_number(105, 100, relative=0.05, absolute=0)
    assert is_close_number(0.3, 0.1 + 0.2, relative=0, absolute=0)
    assert is_close_number(-104, -100, relative=0.05, absolute=0)
    assert not is_close_number(104, -100, relative=0.05, absolute=0)
    assert is_close_number(2, 0, relative=0.5, absolute=2)


OPTIONS = ("red", "dark blue", "a", "C")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("(d)", "D"),
        ("b)", "B"),
        ("B: dark blue", "B"),
        ("Dark Blue.", "B"),
        ("a", "A"),  # a letter, not the text of the third option
        ("E", None),
        ("A. dark blue", None),  # letter and text disagree
        ("red dark blue", None),
        ("A B C D", None),
        ("A, B", None),
        ("A or B", None),
        ("the red one", None),
        ("", None),
    ],
)
def test_a_choice_is_a_letter_a_text_or_both(text: str, letter: str | None) -> None:
    assert choice_in(text, OPTIONS) == letter


def test_two_options_with_the_same_text_are_chosen_by_letter_only() -> None:
    assert choice_in("red", ("red", "Red")) is None
    assert choice_in("B", ("red", "Red")) == "B"


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("red, blue", ["red", "blue"]),
        ("red; blue\ngreen,", ["red", "blue", "green"]),
        ("red, blue, and green", ["red", "blue", "green"]),
        ('["red", "dark, blue"]', ["red", "dark, blue"]),
        ("[1, 2]", []),
        ("[red", ["[red"]),
        ("", []),
    ],
)
def test_items_of_a_list(text: str, items: list[str]) -> None:
    assert items_in(text) == items


def plain_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@given(LETTERS, LETTERS)
def test_the_edit_distance_is_that_of_the_plain_table(first: str, second: str) -> None:
    assert edit_distance(first, second) == plain_distance(first, second)


def test_the_edit_distance_of_long_texts() -> None:
    assert edit_distance("ab" * 400, "ba" * 400) == plain_distance("ab" * 400, "ba" * 400) == 2
