"""Image files of folders by name, for annotations that name their image inexactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from virft.data.images import is_image_name
from virft.data.sources.folder_walk import files_below, same_spelling
from virft.errors import DataError


class ImageIndex:
    """Image files of several folders by name, without letter case and form of accents.

    The folders are read at the first search.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str, *, beside: Path) -> Path | None:
        """Return the image of this name, or of this name without its ending; None if there is none.

        Of several, the one whose folders end as those of ``beside`` is used. Raises ``DataError`` if that does not
        decide.
        """
        if self._by_name is None:
            self._by_name = self._read()
        stem = PurePosixPath(name).with_suffix("").name if is_image_name(name) else name
        found = self._by_name.get(same_spelling(name)) or self._by_name.get(same_spelling(stem))
        if not found:
            return None
        common = [_num_common(path.parent.parts, beside.parts) for path in found]
        chosen = [path for path, number in zip(found, common, strict=True) if number == max(common)]
        if len(chosen) > 1:
            raise DataError(f"several images are named {name}, such as {chosen[0].name} in {_parents(chosen)}")
        return chosen[0]

    def _read(self) -> dict[str, list[Path]]:
        files: dict[Path, None] = {}
        for folder in self._folders:
            for path in files_below(folder):
                if is_image_name(path.name):
                    # Links stay: an image is known by the name of its link.
                    files[Path(os.path.normpath(path.absolute()))] = None
        by_name: dict[str, list[Path]] = {}
        for path in files:
            for key in {same_spelling(path.name), same_spelling(path.stem)}:
                by_name.setdefault(key, []).append(path)
        return by_name


def _num_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of equal parts at the end."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _parents(paths: Sequence[Path]) -> str:
    return " and ".join(path.parent.name for path in paths[:2])
