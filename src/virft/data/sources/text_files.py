"""Text files of users, in the encodings that editors and shells on Windows write too."""

from __future__ import annotations

import codecs
from pathlib import Path

from virft.errors import DataError

_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
_MARKS |= {codecs.BOM_UTF16_BE: "utf-16"}


def marked_encoding(path: Path) -> str | None:
    """Return utf-16 or utf-32 for a file with such a byte order mark, else None. Raises ``OSError``."""
    with path.open("rb") as file:
        return _marked(file.read(4))


def read_text(path: Path, *, expected: str) -> str:
    """Read a file of UTF-8 with or without a byte order mark, or of UTF-16 or UTF-32 with one.

    Raises ``DataError`` if the file cannot be read or has another encoding; ``expected`` names the kind of file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    try:
        return data.decode(_marked(data) or "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _marked(data: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
