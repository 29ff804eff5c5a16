"""Class instructions: a text for each class, from a file of the user or from a source dataset."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from virft.data.json_files import read_json
from virft.errors import ConfigError, DataError, describe_type, did_you_mean
from virft.text.question_texts import without_placeholders
from virft.types import ClassNote

LONG_NOTES = 4000
"""Characters of the class instructions of a question above which a build warns: about 1,000 tokens of English text."""
_EXPECTED = 'a text for each class: JSON {"fox": "red fur", ..}, or TOML with lines such as fox = "red fur"'


def read_class_notes(path: Path) -> dict[str, str]:
    """Read a JSON file, or a TOML file by its ending, of class name -> instructions.

    Spaces around a text and ``<image>`` placeholders are removed. Raises ``DataError`` if the file cannot be read, or
    holds anything else than texts that are not empty.
    """
    tree = _read_toml(path) if path.suffix.lower() == ".toml" else read_json(path, expected=_EXPECTED)
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"{path}: holds {describe_type(tree) if tree else 'no class'}; expected {_EXPECTED}")
    for name, text in tree.items():
        if not isinstance(text, str) or not text.strip() or not name.strip():
            raise DataError(f"{path}: {name!r:.60} has {text!r:.60}; expected {_EXPECTED}")
    return {name: without_placeholders(text).strip() for name, text in tree.items()}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {_EXPECTED}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid TOML ({error}); expected {_EXPECTED}") from error


def check_noted_classes(notes: Mapping[str, str], known: Iterable[str]) -> None:
    """Raise ``ConfigError`` for instructions of a class that is not ``known``."""
    names = sorted(set(known))
    for name in notes:
        if name not in names:
            hint = did_you_mean(name, names, otherwise=f"it has {', '.join(names[:20])}")
            raise ConfigError(f"class instructions: the dataset has no class {name!r}; {hint}")


def notes_of(classes: Iterable[str], notes: Mapping[str, str]) -> tuple[ClassNote, ...]:
    """Return the instructions of the classes that have some, in their order.

    >>> notes_of(["cat", "fox"], {"fox": "red fur"})
    (ClassNote(name='fox', text='red fur'),)
    """
    return tuple(ClassNote(name, notes[name]) for name in classes if name in notes)


def facts_of_notes(notes: Mapping[str, str], classes: Iterable[str], longest: int) -> dict[str, Any]:
    """Return the card's entries: number of ``classes`` with instructions, and characters of the ``longest`` question's.

    Empty without instructions.
    """
    if not notes:
        return {}
    return {"num_noted_classes": sum(name in notes for name in classes), "longest_notes": longest}
