"""Tests of ``virft.text.literals``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.text.literals import TooComplex, Word, read_elements


def elements_of(text):
    return read_elements(text, 0, len(text))


def values_of(text):
    return [element.value for element in elements_of(text)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[]", []),
        (" [ ] ", []),
        ("[1, 2]", [[1.0, 2.0]]),
        ("[[1, 2], (3, 4)]", [[1.0, 2.0], [3.0, 4.0]]),
        ("[1, 2], [3, 4]", [[1.0, 2.0], [3.0, 4.0]]),
        ("[1, 2]\n[3, 4]", [[1.0, 2.0], [3.0, 4.0]]),
        ("{'a': 1}\n{\"b\": 'x'}", [(("a", 1.0),), (("b", "x"),)]),
        ("[{'a': 1}, {'a': 2},]", [(("a", 1.0),), (("a", 2.0),)]),
        ("[{'a': [-1.5, +2, .5, 3e2]}]", [(("a", [-1.5, 2.0, 0.5, 300.0]),)]),
        ("[{'a': 1, 'a': 2}]", [(("a", 1.0), ("a", 2.0))]),
        ("[{'a, ]}': 1}]", [(("a, ]}", 1.0),)]),
        ("[[1], oops, [2]]", [[1.0], None, [2.0]]),
        ("[[1], oops [2]]", [[1.0], None, [2.0]]),
        ("[[1 2], [3]]", [None, [3.0]]),
        ("[[1], [2", [[1.0], None]),
        ("[[1], [2]", [[1.0], [2.0], None]),
        ("[[1], [2)", [[1.0], None]),
        ("[[1]] and so on", [[1.0], None]),
        ("[[1]] [[2]]", [[1.0], None]),
        ("[{'a': 'never ends}, {'a': 1}]", [None]),
        ("[{'a' 1}, {1: 2}, {'a':}, {:}]", [None] * 4),
        ("[,]", [None]),
    ],
)
def test_elements_of_a_text(text, values):
    assert values_of(text) == values


@pytest.mark.parametrize(
    "word", ["True", "null", "NaN", "-Infinity", "1_000", "12abc", "١٢", "1٢", "0x10", "1..2", "1-2"]
)
def test_other_spellings_of_numbers_are_words(word):
    (value,) = values_of(f"[{word}]")
    assert value == [word]
    assert isinstance(value[0], Word)


@pytest.mark.parametrize("text", ["", "   ", "the list: [1]", "'[1]'", "]", "1, 2"])
def test_text_that_does_not_begin_with_a_bracket_is_not_a_list(text):
    assert elements_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "[[[[[[[1]]]]]]]",
        "[" * 7,
        "[1, [2, [3, [4, [5, [6, [7",  # other characters between brackets do not close any
        "[[], [], [[[[[[1]]]]]]]",  # a closing bracket reduces the depth by one, not by two
        "[[[1], [[[[[1]]]]]]]",  # and not to zero
    ],
)
def test_text_over_a_limit_is_not_parsed(text):
    assert isinstance(elements_of(text), TooComplex)


@pytest.mark.parametrize("text", ["[[[[[[1]]]]]]", "[1, " + "7" * 20 + "]", "[[1]], [[1]], [[1]]"])
def test_text_at_a_limit_is_parsed(text):
    assert isinstance(elements_of(text), list)


def test_spans_are_characters_of_the_whole_text():
    text = "abc [[1], oops] xyz"
    spans = [text[element.start : element.end] for element in read_elements(text, 4, 15)]
    assert spans == ["[1]", "oops"]


def test_text_outside_the_given_span_is_not_parsed():
    text = "[[1]] " + "7" * 21
    assert [element.value for element in read_elements(text, 0, 5)] == [[1.0]]


@pytest.mark.parametrize(
    ("text", "fault", "piece"),
    [
        ("[[1], [2] ", "the list is not closed", " "),
        ("[[1]] no more", "text after the list", "no more"),
        ("[[1]] more", "text after the list", "more"),
        ("[[1], ['never ends]", "a bracket or a quote is not closed", "['never ends]"),
        ("[[1], [2, :]]", "':' in place of a value", "[2, :]"),
        ("[[1], [1, " + "7" * 21 + "]]", "a number of more than 20 digits", "[1, " + "7" * 21 + "]"),
        ("[[1], [0." + "1" * 20 + "]]", "a number of more than 20 digits", "[0." + "1" * 20 + "]"),
        ("[[1], oops]", "neither a list nor a dictionary", "oops"),
    ],
)
def test_a_fault_has_a_reason_and_a_span(text, fault, piece):
    first, *_, last = elements_of(text)
    assert (first.value, first.fault) == ([1.0], "")
    assert (last.value, last.fault, text[last.start : last.end]) == (None, fault, piece)


@given(st.text(alphabet="[](){},:'\"\\ 1.e-aN\n", max_size=60))
def test_elements_are_in_order_and_do_not_overlap(text):
    elements = elements_of(text)
    if isinstance(elements, list):
        spans = [place for element in elements for place in (element.start, element.end)]
        assert spans == sorted(spans)
        assert all(element.value is not None or element.fault for element in elements)
