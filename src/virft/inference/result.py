"""An answered question: in lines for a person, as a record for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from virft.inference.questions import Question
from virft.text.answers import split_reasoning
from virft.types import Answer, Box, Completion, Detections, Label, Reading, Unreadable


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
    answer = answered.reading.answer
    width, height = answered.picture.size
    lines = []
    if answered.completion.truncated:
        lines.append(f"cut at {len(answered.completion.token_ids)} tokens: see --max-completion-tokens")
    match answer:
        case Detections(items=items, invalid=invalid):
            lines.append(f"answer: {_count(answer)}" + (f", in pixels of {width} x {height}" if items else ""))
            lines += [f"  {_corners(item.box)}  confidence {item.confidence:.2f}" for item in items]
            lines += [f"  no box: {one.reason}: {one.piece}" for one in invalid]
        case Box():
            lines += [f"answer: 1 box, in pixels of {width} x {height}", f"  {_corners(answer)}"]
        case Label(text=name):
            lines.append(f"answer: {name}")
        case Unreadable(reason=reason):
            lines.append(f"answer: unreadable: {reason}")
    return lines


def as_record(answered: Answered) -> dict[str, Any]:
    """Plain values: the question, the reading with boxes in pixels of the upright picture, the text."""
    question, completion = answered.question, answered.completion
    return {
        "image": str(question.image),
        "question": question.query,
        "task": question.task.value,
        "image_size": list(answered.picture.size),
        "reading": _reading(answered.reading.answer),
        "reasoning": split_reasoning(completion.text)[0],
        "text": completion.text,
        "well_formed": answered.reading.well_formed,
        "truncated": completion.truncated,
    }


def _reading(answer: Answer) -> dict[str, Any]:
    match answer:
        case Detections(items=items, invalid=invalid):
            return {
                "boxes": [_box(item.box) | {"confidence": item.confidence} for item in items],
                "invalid": [{"reason": one.reason, "piece": one.piece} for one in invalid],
            }
        case Box():
            return {"boxes": [_box(answer)]}
        case Label(text=name):
            return {"label": name}
        case Unreadable(reason=reason):
            return {"unreadable": reason}


def _box(box: Box) -> dict[str, Any]:
    return {"box": [round(value, 2) for value in box.xyxy]}


def _corners(box: Box) -> str:
    return "[" + ", ".join(f"{value:.1f}" for value in box.xyxy) + "]"


def _count(answer: Detections) -> str:
    if not answer.items:
        return "no usable box" if answer.invalid else "no objects"
    return "1 box" if len(answer.items) == 1 else f"{len(answer.items)} boxes"
