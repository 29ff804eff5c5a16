"""Queries about images: an image with a class name, a domain or an expression, and the lines of text that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from virft.data.class_notes import notes_of
from virft.data.images import load_image, upright_rgb
from virft.data.samples import parse_notes
from virft.errors import DataError, describe_type, did_you_mean
from virft.tasks import TASKS
from virft.text.question_texts import without_placeholders
from virft.types import ClassNote

ImageInput = str | Path | Image.Image | NDArray[np.uint8]
"""An image file, a PIL image, or an array of shape [H, W, 3] of uint8 (RGB)."""

ImageInputs = (
    list[str] | list[Path] | list[Image.Image] | list[NDArray[np.uint8]] | list[ImageInput] | tuple[ImageInput, ...]
)
"""Several images, as a list or tuple."""

_KEYS = ("image", "question", "task", "notes")
_EXPECTED = 'expected {"image": "a.jpg", "question": "fox"}, or a.jpg, a tab, fox'


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageQuery:
    """A query about one image. ``query``: a class name, a domain or an expression, as in ``Sample``.

    ``image``: the path of a file, or an image in memory, which ``name`` names in messages and tables. ``notes``: class
    instructions for the prompt.
    """

    image: Path | Image.Image
    query: str
    task: str = "detection"
    name: str = "image"
    notes: tuple[ClassNote, ...] = ()

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


def read_query_line(line: bytes, *, task: str, notes: Mapping[str, str] | None = None) -> ImageQuery:
    """Parse the query of a line that is not blank; ``task`` is used if the line names none.

    ``notes``: class instructions for all lines, used for those about their classes; those of the line itself come
    first.

    Raises ``DataError`` for a line without an image, without a query, or with unknown keys.

    >>> read_query_line(b"a.jpg\\tred fox\\n", task="grounding").query
    'red fox'
    """
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text; {_EXPECTED}") from error
    if text.startswith("{"):
        query = _from_json(text, task)
    else:
        image, tab, question = text.partition("\t")
        if not tab:
            raise DataError(f"no tab in it; {_EXPECTED}")
        query = make_query(image, question, task)
    return query if query.notes else replace(query, notes=notes_for_query(query.query, query.task, notes or {}))


def make_query(
    image: ImageInput, query: str, task: str, *, name: str = "image", notes: Mapping[str, str] | None = None
) -> ImageQuery:
    """Return a query whose image and text are not empty; leading and trailing spaces are removed, and so are
    ``<image>`` placeholders.

    ``name``: of an image in memory that was not opened from a file. ``notes``: class instructions {class: text}, of
    which those of the classes in the query are used; of a query without classes, such as a domain, all are. Raises
    ``DataError`` for an empty path or query, for an array that is not an RGB image of uint8 of shape [H, W, 3], and for
    instructions of other classes alone.
    """
    place = _image_of(image, name)
    query = without_placeholders(query)
    if not query.strip():
        raise DataError(f"the query is empty; expected {TASKS[task].query_hint}")
    query = query.strip()
    found = notes_for_query(query, task, notes or {})
    if notes and not found:
        hint = did_you_mean(query, notes, otherwise=f"there are some for {', '.join(notes)}")
        raise DataError(f"no class instructions for {query!r:.60}; {hint}")
    return ImageQuery(image=place, query=query, task=task, name=getattr(place, "filename", "") or name, notes=found)


def notes_for_query(query: str, task: str, notes: Mapping[str, str]) -> tuple[ClassNote, ...]:
    """Return the class instructions for a query: those of its classes, or all if it names none."""
    if not TASKS[task].queries_classes:
        return notes_of(notes, notes)
    # The name of a class may have a comma.
    return notes_of([query] if query in notes else [name.strip() for name in query.split(",")], notes)


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
        if key != "notes" and not isinstance(value, str):
            raise DataError(f"{key} is {json.dumps(value)}; expected a string")
    notes = parse_notes(record["notes"], where="the query") if "notes" in record else ()
    if missing := [key for key in ("image", "question") if key not in record]:
        raise DataError(f"{missing[0]} is missing; {_EXPECTED}")
    if (name := record.get("task", task)) not in TASKS:
        raise DataError(f"task is {name!r}; expected one of {', '.join(TASKS)}")
    return make_query(record["image"], record["question"], name, notes=dict(notes))
