"""Paths of images that rows of other tools name: of another machine, or with folders in front."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from virft.data.images import is_file


def find_images(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the path inside ``folder`` of each image, by the name that a row gives it.

    A path that does not exist in the folder, such as that of another machine, is replaced by its longest end that does:
    "b/1.jpg" or "1.jpg" for "/data/b/1.jpg". An end that fits several names is the image of none of them, as it is not
    known whose. Names that lead out of the folder and have no such end are not in the result; relative ones without a
    file are.
    """
    found = {name: _find(folder, name) for name in set(names)}
    times = Counter(path for path in found.values() if path is not None)
    images = {}
    for name, path in found.items():
        plain = PurePosixPath(name.replace("\\", "/"))
        if path is not None and (times[path] == 1 or path == plain.as_posix()):
            images[name] = path
        elif not _leads_out(plain):
            images[name] = plain.as_posix()
    return images


def as_on_disk(folder: Path, name: str) -> str:
    """Return a path inside the folder with accents encoded as on the disk (NFC, NFD); unchanged if there is no file."""
    spellings = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return next((spelling for spelling in spellings if is_file(folder / spelling)), name)


def _find(folder: Path, name: str) -> str | None:
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part not in ("/", "..") and not part.endswith(":")]
    starts = range(len(parts)) if not _leads_out(path) else range(1 if len(parts) > 1 else 0, len(parts))
    for start in starts:
        end = "/".join(parts[start:])
        if is_file(folder / (spelling := as_on_disk(folder, end))):
            return spelling
    return None


def _leads_out(path: PurePosixPath) -> bool:
    return path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":")
