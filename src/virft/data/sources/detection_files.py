"""Shared functions of the sources that have one annotation file per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from virft.data.annotations import AnnotatedImage, AnnotatedSet
from virft.data.sources.folder_walk import files_below
from virft.errors import ConfigError, DataError, did_you_mean


def folder_files(folder: Path, ending: str, expected: str) -> list[Path]:
    """Return the sorted files with this suffix in a folder and its subfolders, without hidden ones.

    Raises ``DataError`` if there is none; ``expected`` describes the files.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of {expected}")
    files = sorted(path for path in files_below(folder) if path.name.endswith(ending))
    if not files:
        raise DataError(f"{folder}: holds no {ending} file; expected {expected}")
    return files


def detection_set(
    images: Mapping[str, AnnotatedImage], classes: Iterable[str], *, where: str, known: Iterable[str] = ()
) -> AnnotatedSet:
    """Return the annotations with the chosen ``classes``, all if empty.

    ``known``: classes of the dataset, also those that no image shows. Raises ``ConfigError`` if a chosen class is not
    in the dataset; ``where`` names the dataset.
    """
    names = sorted(
        set(known) | {label for image in images.values() for label in (*image.boxes, *image.crowd, *image.doubtful)}
    )
    chosen = tuple(dict.fromkeys(classes))
    for name in chosen:
        if name not in names:
            raise ConfigError(f"class {name!r} is not in {where}; {suggest_class(name, names)}")
    return AnnotatedSet(images=images, classes=tuple(sorted(chosen)) or tuple(names))


def suggest_class(name: str, names: list[str]) -> str:
    """Return the end of a message about an unknown class: the closest known name, or the first 20."""
    return did_you_mean(name, names, otherwise=f"it has {', '.join(names[:20])}")
