"""Answered questions without a model."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from group_factories import completion
from virft.geometry.boxes import BoxSpace
from virft.inference.questions import Question
from virft.inference.result import Answered
from virft.tasks import TASKS
from virft.types import ImageSize

SIZE = ImageSize(200, 100)


def answered(text: str, *, task: str = "detection", cut: bool = False) -> Answered:
    """A text of two tokens about a fox on a black picture of 200 x 100."""
    return Answered(
        question=Question(image=Path("a.jpg"), query="fox", task=task),
        picture=Image.new("RGB", SIZE),
        completion=completion((1, 2), text=text, cut=cut),
        reading=TASKS[task].read(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=SIZE, resized=SIZE),
    )
