"""JSON files of users: parsed whole, with one wording for files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from virft.errors import DataError, describe_type


def read_json(path: Path, *, expected: str) -> Any:
    """Parse a JSON file. Raises ``DataError`` if it cannot be read; ``expected`` names the kind of file."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); expected {expected}") from error


def read_name_lists(path: Path, *, expected: str) -> dict[str, tuple[str, ...]]:
    """Parse a JSON object of lists of names, such as the classes of each image.

    Raises ``DataError`` if the file holds anything else or an empty name; ``expected`` describes the object.
    """
    tree = read_json(path, expected=expected)
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds {describe_type(tree)}; expected {expected}")
    for key, names in tree.items():
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise DataError(f"{path}: {key} has {names!r:.60}; expected {expected}")
    return {key: tuple(names) for key, names in tree.items()}
