"""A model's answer as a page shows it, while it is generated and when it is complete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from virft.data.images import load_image
from virft.inference.model import Model
from virft.inference.queries import ImageQuery
from virft.inference.result import Result, reading_lines
from virft.text.answers import split_reasoning

_SIDE = 1280
"""Largest number of pixels of the longer side of an image that is sent to a browser."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveAnswer:
    """The text generated so far."""

    reasoning: str = ""
    """Reasoning before the answer."""
    answer: str = ""
    """Answer as the model writes it."""
    reading: str = ""
    """Parsed answer, at the end."""
    text: str = ""
    """The whole completion."""
    image: Image.Image | None = None
    """Image to show; None: the displayed image stays."""
    result: Result | None = None
    """The complete answer, at the end."""


def before_answer(image: Path) -> LiveAnswer:
    """Return the image alone, before there is a query; ``DataError`` if it cannot be read as an image."""
    opened = load_image(image)
    opened.thumbnail((_SIDE, _SIDE))
    return LiveAnswer(image=opened)


def live_answers(model: Model, query: ImageQuery) -> Iterator[LiveAnswer]:
    """Yield the text after every token, and at the end the parsed answer with the annotated image."""
    for text in model.stream(query):
        if isinstance(text, Result):
            reasoning, answer = split_reasoning(text.text)
            reading = "\n".join(reading_lines(text))
            yield LiveAnswer(
                reasoning=reasoning,
                answer=answer,
                reading=reading,
                text=text.text,
                image=text.annotated(),
                result=text,
            )
        else:
            reasoning, answer = split_reasoning(text, unfinished=True)
            yield LiveAnswer(reasoning=reasoning, answer=answer, text=text)
