"""CSV files with a head that names their columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from virft.data.sources.text_files import read_text
from virft.errors import DataError


def csv_columns(path: Path) -> list[str]:
    """Return the column names of the head. Raises ``DataError`` if the file cannot be read."""
    return [name.strip() for name in _open(path).fieldnames or ()]


def csv_rows(path: Path, *, required: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the values of each row, by the keys of ``required``: key -> its column in the head.

    Separators are commas, or semicolons or tabs if the head has no comma. Raises ``DataError`` if the file cannot be
    read or lacks a column.
    """
    rows = _open(path)
    columns = {name.strip(): name for name in rows.fieldnames or ()}
    if not set(required.values()) <= columns.keys():
        found, expected = ", ".join(columns) or "nothing", " and ".join(required.values())
        raise DataError(f"{path}:1: the head names {found}; expected columns {expected}")
    try:
        for row in rows:
            yield rows.line_num, {key: (row[columns[name]] or "").strip() for key, name in required.items()}
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not valid CSV ({error})") from error


def leads_out(name: str) -> bool:
    """Return True if a path with forward slashes is absolute or leads out of its folder.

    >>> leads_out("a/b.jpg"), leads_out("/data/b.jpg"), leads_out("C:/b.jpg"), leads_out("../b.jpg")
    (False, True, True, True)
    """
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:/", name) is not None


def _open(path: Path) -> csv.DictReader[str]:
    text = read_text(path, expected="a CSV file")
    head = text.partition("\n")[0]
    separator = next((mark for mark in (",", ";", "\t") if mark in head), ",")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        _ = rows.fieldnames  # read now, so that a fault is reported here
    except csv.Error as error:
        raise DataError(f"{path}:1: not valid CSV ({error})") from error
    return rows
