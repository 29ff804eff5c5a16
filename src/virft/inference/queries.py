"""Queries about images: an image with a class name, a domain or an expression, and the lines of text that hold them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from virft.data.images import load_image, upright_rgb
from virft.errors import DataError, describe_type, did_you_mean
from virft.tasks import TASKS
from virft.text.question_texts import without_placeholders

ImageInput = str | Path | Image.Image | NDArray[np.uint8]
"""An image file, a PIL image, or an array of shape [H, W, 3] of uint8 (RGB)."""

ImageInputs = (
    list[str] | list[Path] | list[Image.Image] | list[NDArray[np.uint8]] | list[ImageInput] | tuple[ImageInput, ...]
)
"""Several images, as a list or tuple."""

_KEYS = ("image", "question", "task")
_EXPECTED = 'expected {"image": "a.jpg", "question": "fox"}, or a.jpg, a tab, fox'


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageQuery:
    """A query about one image. ``query``: a class name, a domain or an expression, as in ``Sample``.

    ``image``: the path of a file, or an image in memory, which ``name`` names in messages and tables.
    """

    image: Path | Image.Image
    query: str
    task: str = "detection"
    name: str = "image"

    @property
    def image_name(self) -> str:
        """The path as text, or ``name`` for an image in memory."""
        return str(self.image) if isinstance(self.image, Path) else self.name

    def open_image(self) -> Image.Image:
        """Return the upright RGB image; ``DataError`` if it cannot be read as an image."""
        if isinstance(self.image, Path):
            return load_image(self.image)
        try:
            return upright_rgb(self.image)
        except OSError as error:  # PIL reads the pixels of an opened file only now
            raise DataError(f"{self.name}: cannot be read as an image: {error}") from error


def read_query_line(line: bytes, *, task: str) -> ImageQuery:
    """Parse the query of a line that is not blank; ``task`` is used if the line names none.

    Raises ``DataError`` for a line without an image, without a query, or with unknown keys.

    >>> read_query_line(b"a.jpg\\tred fox\\n", task="grounding").query
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
    return make_query(image, query, task)


def make_query(image: ImageInput, query: str, task: str, *, name: str = "image") -> ImageQuery:
    """Return a query whose image and text are not empty; leading and trailing spaces are removed, and so are
    ``<image>`` placeholders.

    ``name``: of an image in memory that was not opened from a file. Raises ``DataError`` for an empty path or query,
    and for an array that is not an RGB image of uint8 of shape [H, W, 3].
    """
    place = _image_of(image, name)
    query = without_placeholders(query)
    if not query.strip():
        raise DataError(f"the query is empty; expected {TASKS[task].query_hint}")
    return ImageQuery(image=place, query=query.strip(), task=task, name=getattr(place, "filename", "") or name)


def _image_of(image: object, name: str) -> Path | Image.Image:
    match image:
        case Path() | Image.Image():
            return image
        case str():
            if not image.strip():
                raise DataError("no image; expected the path of an image")
            return Path(image.strip())
        case np.ndarray(dtype=np.uint8, shape=(height, width, 3)) if height and width:
            return Image.fromarray(image)
        case np.ndarray():
            found = f"an array of {image.dtype} of shape {list(image.shape)}"
        case _:
            found = describe_type(image)
    raise DataError(f"{name}: {found}; expected a path, a PIL image, or an array of uint8 of shape [H, W, 3] (RGB)")


def _from_json(text: str, task: str) -> ImageQuery:
    try:
        record: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error}); {_EXPECTED}") from error
    for key, value in record.items():
        if key not in _KEYS:
            raise DataError(f"{key} is no key of a query; " + did_you_mean(key, _KEYS, otherwise=_EXPECTED))
        if not isinstance(value, str):
            raise DataError(f"{key} is {json.dumps(value)}; expected a string")
    if missing := [key for key in ("image", "question") if key not in record]:
        raise DataError(f"{missing[0]} is missing; {_EXPECTED}")
    if (name := record.get("task", task)) not in TASKS:
        raise DataError(f"task is {name!r}; expected one of {', '.join(TASKS)}")
    return make_query(record["image"], record["question"], name)
