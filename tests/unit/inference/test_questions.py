"""Lines of standard input are questions, or say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from virft.errors import DataError
from virft.inference.questions import Question, read_question_line


def read(line: str | bytes) -> Question:
    return read_question_line(line if isinstance(line, bytes) else line.encode(), task="detection")


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("a b.jpg\tred fox\n", Question(image=Path("a b.jpg"), query="red fox")),
        ("a.jpg\tthe fox\ton the left\r\n", Question(image=Path("a.jpg"), query="the fox\ton the left")),
        ('{"image": "a.jpg", "question": " fox "}', Question(image=Path("a.jpg"), query="fox")),
        (
            '{"image": "ä.jpg", "question": "animal", "task": "classification"}',
            Question(image=Path("ä.jpg"), query="animal", task="classification"),
        ),
        (
            json.dumps({"image": "a.jpg", "question": 'the "fox\'s" tail'}),
            Question(image=Path("a.jpg"), query='the "fox\'s" tail'),
        ),
    ],
)
def test_a_line_is_a_question(line: str, question: Question) -> None:
    assert read(line) == question


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.jpg fox", 'no tab in it; expected {"image": "a.jpg", "question": "fox"}, or a.jpg, a tab, fox'),
        ("a.jpg\t \n", "no tab in it"),
        ('{"image": "a.jpg", "question": " "}', "the question is empty; expected a class name"),
        ('{"image": "", "question": "fox"}', "no image; expected the path of a picture"),
        ('{"image": "a.jpg"}', "question is missing"),
        ('{"question": "fox"}', "image is missing"),
        ('{"image": "a.jpg", "question": 3}', "question is 3; expected a string"),
        ('{"image": ["a.jpg"], "question": "fox"}', r'image is \["a.jpg"\]; expected a string'),
        ('{"image": "a.jpg", "question": "fox", "task": "detect"}', "task is 'detect'; expected one of detection, "),
        ('{"image": "a.jpg", "qestion": "fox"}', "qestion is no key of a question; did you mean 'question'?"),
        ('{"image": "a.jpg", ', "not valid JSON"),
        ('{"a":' * 100_000, "not valid JSON"),
        (b"\xff\t\xfe", "not UTF-8 text"),
    ],
)
def test_a_line_that_is_none_says_why(line: str | bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(line)
