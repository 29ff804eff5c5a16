"""Samples from questions and answers as texts: the answer is parsed like that of a completion."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from virft.errors import DataError
from virft.geometry.boxes import BoxSpace, box_of
from virft.tasks import TASKS
from virft.text.labels import normalize_name
from virft.text.question_texts import demanded_spaces, without_placeholders
from virft.types import Box, Detections, ImageSize, Sample, Target

_CATEGORY = re.compile(
    r"categor(?:y|ies)\s*[:\s]\s*[\"'‘“](.+?)[\"'’”](?![\w])(?!\s*(?:,|and|or)\s*[\"'‘“])", re.IGNORECASE
)
_SEVERAL = re.compile(r"categories\s*[:\s]\s*[\"'‘“][^\"'‘“’”]+[\"'’”]\s*(?:,|and|or)\s*[\"'‘“]", re.IGNORECASE)
_LOOKS_LIKE_DETECTION = re.compile(r"Position|bbox|no objects?|\[\s*[\[{]|\[\s*\]", re.IGNORECASE)
_LOOKS_LIKE_BOXES = re.compile(_LOOKS_LIKE_DETECTION.pattern + r"|[\[(]\s*\d+(\.\d+)?\s*,", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def sample_of_texts(
    question: Any,
    answer: Any,
    *,
    name: str,
    images: Sequence[str],
    sizes: Sequence[ImageSize],
    task: str | None = None,
    space: BoxSpace | None = None,
    column: str = "solution",
) -> Sample:
    """Return the sample of a question and its answer, whose boxes become pixels of the upright image.

    ``task``: None infers it from the form of the answer; boxes with different labels are then an error, because they
    may be of one class or of several. ``space``: coordinate space of the boxes; None: as the question says. ``name``:
    id of the sample. ``column``: name of the answer in messages. Raises ``DataError`` for
    texts that are empty, an answer that is none of the task, and boxes of unknown coordinates.
    """
    text = answer if isinstance(answer, str) or answer is None else json.dumps(answer)
    for key, value in (("problem", question), (column, text)):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{key} is {value!r:.60}; expected a text")
    assert isinstance(text, str)  # checked above
    plain = without_placeholders(question).strip()
    body = text if "<answer>" in text else f"<answer>{_THOUGHT.sub('', text)}</answer>"
    row = TASKS[task or _task_of_text(body)]
    place = _space(space, plain, row.name, body)
    if task is None:
        _require_one_label(body, row.name, sizes[0], place, column=column)
    target = _read(body, row.name, sizes[0], place, shown=text, column=column)
    category = None if _SEVERAL.search(plain) else _CATEGORY.search(plain)
    thought = _THOUGHT.search(text)
    sample = Sample(
        id=name,
        task=row.name,
        images=tuple(images),
        image_sizes=tuple(sizes),
        query=category[1] if category and row.absent is not None else plain,
        target=target,
        question=plain,
        rationale=(thought[1].strip() or None) if thought else None,
    )
    # Not every answer is a target: "no objects" does not say of which classes, if there may be several.
    row.parse_target(row.target_format.to_record(sample), sizes[0], where=f"{column} {text!r:.60}")
    return sample


def _space(space: BoxSpace | None, question: str, task: str, answer: str) -> BoxSpace:
    """Return the coordinate space of an answer; one without boxes fits any."""
    if space is not None:
        return space
    if demanded_spaces(question) == (BoxSpace.RELATIVE_1000,) or TASKS[task].boxes is None:
        return BoxSpace.RELATIVE_1000
    if not re.search(r"\d", answer):  # no objects
        return BoxSpace.RELATIVE_1000
    raise DataError(
        "the coordinates of its boxes are unknown; expected --space relative_1000 (0 to 1000 of width and height) or "
        "--space original_pixels"
    )


def _require_one_label(text: str, task: str, size: ImageSize, space: BoxSpace, *, column: str) -> None:
    """Raise ``DataError`` for an answer of detection whose boxes have several labels."""
    answer = TASKS[task].read_target_text(text, space=space, original=size, resized=size).answer
    items = answer.items if isinstance(answer, Detections) else ()
    labels = list({normalize_name(item.label): item.label for item in items if item.label}.values())
    if len(labels) > 1:
        raise DataError(
            f"the boxes of {column} have the labels {', '.join(map(repr, labels[:3]))}; expected --task "
            "multiclass_detection to read them as classes, or --task detection to read all boxes as one class"
        )


def _read(text: str, task: str, size: ImageSize, space: BoxSpace, *, shown: str, column: str) -> Target:
    """Parse an answer to a target; boxes in pixels of the upright image, rounded to three decimals."""
    row = TASKS[task]
    reading = row.read_target_text(text, space=space, original=size, resized=size)
    if fault := row.target_fault(reading.answer):
        example = row.target_example or row.example
        raise DataError(
            f"{column} {shown!r:.60} is not an answer of {row.name} ({fault}); expected one such as {example}"
        )
    # Of an answer, a data set holds what its target has: boxes without confidences.
    return row.move_boxes(row.to_target(reading.answer), _rounded)


def _task_of_text(text: str) -> str:
    if not _LOOKS_LIKE_BOXES.search(text):
        return "classification"
    return "detection" if _LOOKS_LIKE_DETECTION.search(text) else "grounding"


def _rounded(box: Box) -> Box:
    return box_of((round(box.x1, 3), round(box.y1, 3), round(box.x2, 3), round(box.y2, 3)))
