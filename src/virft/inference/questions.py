"""Questions about picture files, and the lines of text they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virft.errors import DataError, did_you_mean
from virft.tasks import TASKS

_KEYS = ("image", "question", "task")
_EXPECTED = 'expected {"image": "a.jpg", "question": "fox"}, or a.jpg, a tab, fox'


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked about a picture file. ``query``: a class name, a domain or an expression, as in ``Sample``."""

    image: Path
    query: str
    task: str = "detection"


def read_question_line(line: bytes, *, task: str) -> Question:
    """The question of a line that is not blank; ``task`` where it names none. ``DataError`` says what is wrong.

    >>> read_question_line(b"a.jpg\\tred fox\\n", task="grounding").query
    'red fox'
    """
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text; {_EXPECTED}") from error
    if text.startswith("{"):
        return _from_json(text, task)
    image, tab, query = text.partition("\t")
    if not tab:
        raise DataError(f"no tab in it; {_EXPECTED}")
    return make_question(image, query, task)


def make_question(image: str, query: str, task: str) -> Question:
    """A question whose image and query are not empty; outer spaces are left out."""
    if not image.strip():
        raise DataError("no image; expected the path of a picture")
    if not query.strip():
        raise DataError("the question is empty; expected a class name, a domain such as animal, or an expression")
    return Question(image=Path(image.strip()), query=query.strip(), task=task)


def _from_json(text: str, task: str) -> Question:
    try:
        record: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error}); {_EXPECTED}") from error
    for key, value in record.items():
        if key not in _KEYS:
            raise DataError(f"{key} is no key of a question; " + did_you_mean(key, _KEYS, otherwise=_EXPECTED))
        if not isinstance(value, str):
            raise DataError(f"{key} is {json.dumps(value)}; expected a string")
    if missing := [key for key in ("image", "question") if key not in record]:
        raise DataError(f"{missing[0]} is missing; {_EXPECTED}")
    if (name := record.get("task", task)) not in TASKS:
        raise DataError(f"task is {name!r}; expected one of {', '.join(TASKS)}")
    return make_question(record["image"], record["question"], name)
