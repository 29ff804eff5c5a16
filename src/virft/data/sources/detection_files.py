"""What sources of one annotation file per image have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from virft.data.annotations import AnnotatedImage, AnnotatedSet
from virft.errors import ConfigError, DataError, did_you_mean


def folder_files(folder: Path, ending: str, expected: str) -> list[Path]:
    """The files with this ending in the folder and below, sorted, hidden ones left out; ``DataError`` without any."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of {expected}")
    files = sorted(
        path
        for path in folder.rglob(f"*{ending}")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise DataError(f"{folder}: holds no {ending} file; expected {expected}")
    return files


def detection_set(
    images: Mapping[str, AnnotatedImage], classes: Iterable[str], *, where: str, known: Iterable[str] = ()
) -> AnnotatedSet:
    """The set with the asked classes: all by default. ``known``: classes that the set has without showing them.

    ``ConfigError`` about the first asked class that it has not.
    """
    names = sorted(set(known) | {label for image in images.values() for label in (*image.boxes, *image.doubtful)})
    asked = tuple(dict.fromkeys(classes))
    for name in asked:
        if name not in names:
            raise ConfigError(f"class {name!r} is not in {where}; {meant(name, names)}")
    return AnnotatedSet(images=images, classes=tuple(sorted(asked)) or tuple(names))


def meant(name: str, names: list[str]) -> str:
    """What to say about a class that is not there: the nearest that is, or the first of them."""
    return did_you_mean(name, names, otherwise=f"it has {', '.join(names[:20])}")
