"""Tests of ``virft.text.labels``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.text.labels import is_same_label, is_substring_match, normalize_label
from virft.types import Label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Siamese_Cat", "siamesecat"),
        ("  **Boeing 737-200**. ", "boeing737200"),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "fullwidth"),
        ("Straße", "strasse"),
        ("ﬁg", "fig"),
        ("cat\u200b", "cat"),
        ("`pug`", "pug"),
        ("C++", "c++"),
        ("हिन्दी", "हिन्दी"),  # vowel signs are marks, not punctuation
        ("...", ""),
        ("**1.5**.", "1.5"),
        ("(1,000,000)", "1000000"),
        ("½", "1/2"),
        ("1 / 2", "1/2"),
        (".5", "0.5"),
        ("50 %", "50%"),
        ("– cat –", "cat"),
        ("#1", "1"),
        ("1.", "1"),
        ('"fox-"', "fox"),
        ("Answer: cat", "answercat"),
    ],
)
def test_normalizing_retains_letters_marks_digits_and_symbols(text, expected):
    assert normalize_label(text) == expected


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalize_label(normalize_label(text)) == normalize_label(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5", "15"),
        ("-3", "3"),
        ("1/2", "12"),
        ("1:10", "110"),
        ("1,5", "15"),
        ("1, 2", "12"),
        ("A-", "A"),
        ("AB-", "AB"),
        ("A-", "A+"),
        ("C#", "C"),
        ("C#", "C++"),
        ("5%", "5"),
        (".5", "5"),
        ("temperature -3", "temperature 3"),
        ("-0.5", "0.5"),
        ("−3", "3"),
        ("1e-5", "1e5"),
        ("1·5", "15"),
        ("1٫5", "15"),
    ],
)
def test_punctuation_that_makes_another_name_remains(one, other):
    assert not is_same_label(one, Label(text=other))
    assert not is_same_label(other, Label(text=one))
    for around in ("{}", " {}. ", "**{}**", '"{}"', "`{}`!", "({})"):
        assert is_same_label(around.format(one), Label(text=one)), around


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("737-200", "737200"),
        ("boeing 737-200", "Boeing 737 200"),
        ("−3", "-3"),
        ("–3", "-3"),
        ("1,000", "1000"),
        ("t-shirt", "T shirt"),
        ("St. Bernard", "st bernard"),
        ("rock'n'roll", "rock n roll"),
    ],
)
def test_other_punctuation_does_not_matter(answer, label):
    assert is_same_label(answer, Label(text=label))


@pytest.mark.parametrize("answer", ["", "  ", "...", "a cat", "cats", "cat or dog", "cat, dog", "caterpillar"])
def test_only_the_name_itself_is_the_label(answer):
    assert not is_same_label(answer, Label(text="cat"))


def test_an_alias_of_the_target_is_the_label():
    cat = Label(text="cat", aliases=("felis-catus", "..."))
    assert is_same_label("Felis catus", cat)
    assert not is_same_label("kitty", cat)
    assert not is_same_label(" ! ", cat), "what normalises to nothing names nothing"


@pytest.mark.parametrize("answer", ["", "a", "Cat or dog", "c_at"])
def test_the_papers_rule_accepts_parts_of_names(answer):
    assert is_substring_match(answer, Label(text="Cat"))


def test_the_papers_rule_rejects_other_names():
    assert not is_substring_match("dog", Label(text="cat"))
