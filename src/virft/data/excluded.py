"""Read the file of ``data.exclude``: ids of samples that are not trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from virft.errors import DataError


def read_sample_ids(path: Path) -> dict[str, int]:
    """Return sample id -> number of its line, from JSON lines with the key ``sample_id`` or lines that are an id.

    Empty lines are skipped. Raises ``DataError`` for a file that cannot be read or a JSON line without the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(
            f"{path}: cannot be read ({reason}); expected a suspects.jsonl of `virft check --suspects`, or one sample "
            "id per line"
        ) from error
    found: dict[str, int] = {}
    # Not str.splitlines: an id may contain other line breaks, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found.setdefault(_sample_id(line.strip(), f"{path}:{number}"), number)
    return found


def _sample_id(line: str, where: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not a JSON object ({error}); expected one with sample_id, or a sample id") from error
    if not isinstance(record, dict) or not isinstance(record.get("sample_id"), str):
        raise DataError(f"{where}: has no sample_id; expected the id of a sample as text")
    name: str = record["sample_id"]
    return name


def require_known(excluded: Mapping[str, int], known: Iterable[str], path: Path) -> frozenset[str]:
    """Return the excluded ids. Raises ``DataError`` if one of them is not among ``known``, or no sample remains."""
    all_ids = set(known)
    for name, number in excluded.items():
        if name not in all_ids:
            raise DataError(
                f"{path}:{number}: {name!r:.200} is not a sample of the training data; expected ids of its samples"
            )
    if all_ids <= excluded.keys():
        raise DataError(f"{path}: excludes all {len(all_ids)} samples of the training data; expected fewer")
    return frozenset(excluded)
