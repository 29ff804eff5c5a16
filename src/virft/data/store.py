"""A dataset on disk: a folder of ``samples.jsonl``, ``images/`` and ``card.json``, read lazily.

Image paths in ``samples.jsonl`` are relative to the folder; a ``Sample`` from a ``Store`` has the folder prepended.
Format: ``docs/data.md``.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from virft.data.images import is_file, load_image
from virft.data.samples import sample_from_line
from virft.errors import DataError
from virft.files import nearest_folder
from virft.types import Sample

DATASET_SCHEMA_VERSION = 2
"""Version of the format. Version 2 renamed the key ``asked`` of a sample to ``queried``, and some keys of the card."""
SAMPLES, CARD, IMAGES = "samples.jsonl", "card.json", "images"
"""Names in the folder of a dataset."""
_PARTS = ("train", "validation", "test")
"""Folders of the datasets of a build with a split, in the order of the output."""


class Store:
    """Samples of a dataset by index. A sample is parsed at each access; memory is 8 bytes per sample.

    Opening a dataset checks its card, and the hash of ``samples.jsonl`` in the card.
    """

    def __init__(self, folder: Path | str) -> None:
        """Raises ``DataError`` if the folder is not a dataset of this version, or was changed after its build."""
        self.folder = Path(folder)
        self.card = read_card(self.folder)
        self._prefix = str(self.folder)
        self._path = self.folder / SAMPLES
        self._starts, self.hash = _scan(self._path)
        if self.card.get("hash") != self.hash:
            self._accept_or_refuse_edited()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Sample:
        number = range(len(self))[index]
        with self._path.open("rb") as file:
            file.seek(self._starts[number])
            return self._read(file.readline(), number)

    def __iter__(self) -> Iterator[Sample]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file):
                yield self._read(line, number)

    @property
    def has_images(self) -> bool:
        """False for a dataset that was built without images, for scoring and export only."""
        return bool(self.card.get("has_images", True))

    def check(self, *, decode: bool = False) -> None:
        """Raise ``DataError`` if the dataset is empty or an image is missing; ``decode`` also decodes every image."""
        if not len(self):
            raise DataError(f"{self._path}: holds no samples; expected at least one")
        if not self.has_images:
            raise DataError(
                f"{self.folder}: was built without images, so it is for scoring and export only; "
                "build it again with the folder of the images in place of -"
            )
        seen: set[str] = set()
        for number, sample in enumerate(self):
            for path, size in zip(sample.images, sample.image_sizes, strict=True):
                if path in seen:
                    continue
                seen.add(path)
                if not is_file(path):
                    raise DataError(f"{self._where(number)}: no such image: {path} (sample {sample.id})")
                if decode:
                    self._check_size(load_image(path, sample_id=sample.id).size, size, number, path)

    def _check_size(self, found: tuple[int, int], expected: tuple[int, int], number: int, path: str) -> None:
        if found != expected:
            raise DataError(
                f"{self._where(number)}: {path} has {found[0]} x {found[1]} pixels upright; "
                f"expected {expected[0]} x {expected[1]}, which its boxes were drawn on"
            )

    def _read(self, line: bytes, number: int) -> Sample:
        where = self._where(number)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text; expected one JSON object a line") from error
        return sample_from_line(text, where=where, folder=self._prefix)

    def _where(self, number: int) -> str:
        return f"{self._prefix}/{SAMPLES}:{number + 1}"

    def _accept_or_refuse_edited(self) -> None:
        """Check every line of a file without a hash in the card; ``DataError`` if the card has another hash."""
        first_line: dict[str, int] = {}
        for number, sample in enumerate(self):
            if sample.id in first_line:
                raise DataError(
                    f"{self._where(number)}: id {sample.id!r} was used in line {first_line[sample.id]}; "
                    "expected every id once"
                )
            first_line[sample.id] = number + 1
        if "hash" in self.card:
            raise DataError(
                f"{self._path}: changed since {CARD} was written (sha256 {self.hash[:12]}, expected "
                f"{str(self.card['hash'])[:12]}); build it again, or delete `hash` from {CARD} to use the changed file"
            )


def open_stores(folder: Path) -> dict[str, Store]:
    """Return the dataset in a folder under the name "", or the datasets of a build with a split by their names.

    Raises ``DataError`` as ``Store`` does.
    """
    names = () if (folder / CARD).is_file() else [name for name in _PARTS if (folder / name / CARD).is_file()]
    return {name: Store(folder / name) for name in names} or {"": Store(folder)}


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of a dataset. Raises ``DataError`` if the folder is not a dataset of this schema version."""
    path = folder / CARD
    if folder.is_file():
        raise DataError(f"{folder}: is a file; expected the folder of a dataset made by `virft build`")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = f"has no {CARD}" if folder.is_dir() else "does not exist"
        near = _nearest_dataset(folder)
        expected = "expected a dataset made by `virft build`" if near is None else f"did you mean {near}?"
        raise DataError(f"{folder}: {what}; {expected}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    found = card.get("schema_version") if isinstance(card, dict) else None
    if found != DATASET_SCHEMA_VERSION:
        # Runs and predictions have a card.json too.
        if not (folder / SAMPLES).is_file():
            raise DataError(f"{path}: there is no {SAMPLES} next to it; expected a dataset made by `virft build`")
        raise DataError(
            f"{path}: schema_version is {found!r}; expected {DATASET_SCHEMA_VERSION}; "
            "build the dataset again with `virft build`"
        )
    assert isinstance(card, dict)
    return card


def _nearest_dataset(folder: Path) -> str | None:
    """Return the dataset that was probably meant: a part of a split, or one with a similar name; None if none is."""
    if not folder.is_dir():
        near = nearest_folder(folder)
        return None if near is None else str(near) if (near / CARD).is_file() else _nearest_dataset(near)
    # train first: the other parts are named to the user, who decides
    parts = sorted((path.parent for path in folder.glob(f"*/{SAMPLES}")), key=lambda part: (part.name != "train", part))
    return " or ".join(map(str, parts[:3])) or None


def _scan(path: Path) -> tuple[array[int], str]:
    """Return the byte offset of each line, and the sha256 of the whole file."""
    starts, digest, offset = array("Q"), hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            for line in file:
                starts.append(offset)
                offset += len(line)
                digest.update(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return starts, digest.hexdigest()
