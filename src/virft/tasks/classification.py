"""Classification: the name of what an image shows, in free text."""

from __future__ import annotations

from virft.geometry.boxes import BoxSpace
from virft.metrics.accuracy import accuracy
from virft.tasks.task import Task
from virft.text.answers import read_classification, render_classification
from virft.types import ImageSize, Label, Reading, TaskName


def _read(text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
    """A name has no place in the image, so sizes and box space play no part."""
    return read_classification(text, thinking=thinking)


def _render(
    target: Label, *, space: BoxSpace, original: ImageSize, resized: ImageSize, thinking_text: str | None
) -> str:
    return render_classification(target, thinking_text=thinking_text)


CLASSIFICATION = Task(
    name=TaskName.CLASSIFICATION,
    example="tabby cat",
    target_type=Label,
    read=_read,
    render=_render,
    measure_pairs=accuracy,
)
