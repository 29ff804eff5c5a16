"""Results of queries without a model."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from group_factories import completion
from virft.geometry.boxes import BoxSpace
from virft.inference.queries import ImageQuery
from virft.inference.result import Result
from virft.tasks import TASKS
from virft.types import ImageSize

SIZE = ImageSize(200, 100)


def result(
    text: str, *, task: str = "detection", cut: bool = False, image: Path | Image.Image = Path("a.jpg")
) -> Result:
    """A completion of two tokens about a fox on a black image of 200 x 100."""
    return Result(
        query=ImageQuery(image=image, query="fox", task=task),
        image=Image.new("RGB", SIZE),
        completion=completion((1, 2), text=text, cut=cut),
        reading=TASKS[task].read(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=SIZE, resized=SIZE),
    )
