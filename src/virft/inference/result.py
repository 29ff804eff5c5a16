"""An answered question: in lines for a person, as a record for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from virft.inference.questions import Question
from virft.tasks import TASKS
from virft.text.answers import split_reasoning
from virft.types import Completion, ImageSize, Reading, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A question with the upright picture it was about, what the model wrote, and how that is read.

    Boxes of the reading are in pixels of ``picture``.
    """

    question: Question
    picture: Image.Image
    completion: Completion
    reading: Reading


def in_lines(answered: Answered) -> list[str]:
    """What the model thought, how its answer is read, and, if it cannot be, what it wrote."""
    text = answered.completion.text
    reasoning, _ = split_reasoning(text)
    lines = [f"reasoning: {reasoning}"] if reasoning else []
    lines += reading_lines(answered)
    return [*lines, f"text: {text}"] if isinstance(answered.reading.answer, Unreadable) else lines


def reading_lines(answered: Answered) -> list[str]:
    """How the answer is read, and what stands in the way."""
    lines = []
    if answered.completion.truncated:
        lines.append(f"cut at {len(answered.completion.token_ids)} tokens: see --max-completion-tokens")
    task = TASKS[answered.question.task]
    return lines + task.list_answer(answered.reading.answer, ImageSize(*answered.picture.size))


def as_record(answered: Answered) -> dict[str, Any]:
    """Plain values: the question, the reading with boxes in pixels of the upright picture, the text."""
    question, completion = answered.question, answered.completion
    return {
        "image": str(question.image),
        "question": question.query,
        "task": question.task,
        "image_size": list(answered.picture.size),
        "reading": TASKS[question.task].record_answer(answered.reading.answer),
        "reasoning": split_reasoning(completion.text)[0],
        "text": completion.text,
        "well_formed": answered.reading.well_formed,
        "truncated": completion.truncated,
    }
