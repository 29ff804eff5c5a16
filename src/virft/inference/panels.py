"""What a page shows of an answer, while it is written and in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from virft.data.images import load_image
from virft.inference.annotated_image import drawn
from virft.inference.asker import Asker
from virft.inference.questions import Question
from virft.inference.result import Answered, reading_lines
from virft.text.answers import split_reasoning

_SIDE = 1280
"""Pixels of the longer side that are sent to a browser, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """``answer``: as the model writes it. ``picture`` None: what was shown stays."""

    reasoning: str = ""
    answer: str = ""
    reading: str = ""
    picture: Image.Image | None = None


def first_panel(image: Path) -> Panel:
    """The picture before anything is asked about it; ``DataError`` if it cannot be used."""
    picture = load_image(image)
    picture.thumbnail((_SIDE, _SIDE))
    return Panel(picture=picture)


def panels(asker: Asker, question: Question) -> Iterator[Panel]:
    """A panel after every token, and a last one with the reading and the boxes."""
    for text in asker.stream(question):
        if isinstance(text, Answered):
            reasoning, answer = split_reasoning(text.completion.text)
            reading = "\n".join(reading_lines(text))
            yield Panel(reasoning=reasoning, answer=answer, reading=reading, picture=drawn(text))
        else:
            reasoning, answer = split_reasoning(text, unfinished=True)
            yield Panel(reasoning=reasoning, answer=answer)
