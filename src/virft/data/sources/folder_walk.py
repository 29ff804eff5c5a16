"""Files of a folder and its subfolders, as all sources of one annotation file per image list them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, sorted by folder, without hidden ones and macOS's zip data.

    Links to folders are followed, each folder once.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        chosen = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        # Links last: a folder that is linked too is listed under its own name.
        folders[:] = sorted(chosen, key=lambda name: (Path(place, name).is_symlink(), name))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path


def same_spelling(name: str) -> str:
    """Return a key that is equal for names which differ in letter case, or in how accents are encoded (NFC, NFD).

    >>> same_spelling("IMG_1.JPG") == same_spelling("img_1.jpg")
    True
    """
    return unicodedata.normalize("NFC", name).casefold()
