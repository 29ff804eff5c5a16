"""Read rows of `virft export --format trl`, with their images, as messages of OpenAI's chat API."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from virft.data.images import load_image, stored_size
from virft.errors import DataError, describe_type

_EXPECTED = "expected rows of `virft export --format trl`"
_WEB_FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow's names of the formats that every server reads."""


def read_exported_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) for each line of ``rows.jsonl``, lazily; empty lines are ignored.

    Raises ``DataError`` for a file that cannot be read, a line that is not a JSON object, and an ``id`` that is missing
    or that an earlier row has.
    """
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    row = _parse_row(line, where)
                    if (first := lines.setdefault(row["id"], number)) != number:
                        raise DataError(f"{where}: id {row['id']} is that of line {first}, too; expected unique ids")
                    yield where, row
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason}); {_EXPECTED}") from error


def _parse_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); {_EXPECTED}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: holds {describe_type(row)}; {_EXPECTED}")
    if not isinstance(row.get("id"), str):
        raise DataError(f"{where}: id is {row.get('id')!r:.60}; {_EXPECTED}, whose id is a text")
    return row


class ChatContent:
    """Convert rows into the content of a user message. Consecutive rows of one image share its encoded text."""

    def __init__(self) -> None:
        self._data_url = lru_cache(maxsize=16)(image_data_url)

    def of(self, row: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
        """Return the images of a row as data URLs, followed by the text of its question.

        Raises ``DataError`` with ``where`` in front if images or prompt are not those of an exported row, or the target
        image no longer has the size that its boxes refer to, and ``DataError`` with the path in front if an image file
        is missing or invalid.
        """
        paths, target = row.get("images"), row.get("target_image")
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise DataError(f"{where}: images is {paths!r:.60}; expected a list of paths")
        if not isinstance(target, int) or target not in range(len(paths)):
            raise DataError(f"{where}: target_image is {target!r:.60}; expected an index below {len(paths)}")
        found = stored_size(paths[target]).upright
        if list(found) != row.get("image_size"):
            raise DataError(
                f"{where}: {paths[target]} has {found.width} x {found.height} pixels; expected image_size, "
                f"{row.get('image_size')!r:.60}, as its boxes refer to it; export the rows again"
            )
        images = [{"type": "image_url", "image_url": {"url": self._data_url(path)}} for path in paths]
        return [*images, {"type": "text", "text": _question(row, where)}]


def _question(row: Mapping[str, Any], where: str) -> str:
    try:
        (message,) = row["prompt"]
        text = message["content"][-1]["text"]
    except (LookupError, TypeError, ValueError):
        text = None
    if not isinstance(text, str):
        raise DataError(f"{where}: prompt is {row.get('prompt')!r:.60}; {_EXPECTED}: one message that ends with a text")
    return text


def image_data_url(path: str) -> str:
    """Return an image file as a data URL.

    An upright RGB image in JPEG, PNG or WebP is sent as it is stored; any other one as a PNG of the pixels that virft
    itself would use. Raises ``DataError`` if the file is missing or not an image.
    """
    upright = stored_size(path).orientation == 1
    with Image.open(path) as image:
        plain = image.mode == "RGB" and not image.has_transparency_data
        format = image.format if upright and plain and image.format in _WEB_FORMATS else None
    if format is not None:
        data = Path(path).read_bytes()
    else:
        buffer = io.BytesIO()
        load_image(path).save(buffer, format="PNG")
        format, data = "PNG", buffer.getvalue()
    return f"data:image/{format.lower()};base64,{base64.b64encode(data).decode()}"
