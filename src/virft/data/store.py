"""A data set on disk: a folder of ``samples.jsonl``, ``images/`` and ``card.json``, read lazily.

Image paths in ``samples.jsonl`` are relative to the folder; a ``Sample`` that was read holds them
with the folder in front. Format: ``docs/data.md``.
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
from virft.types import Sample

SCHEMA_VERSION = 1
SAMPLES, CARD, IMAGES = "samples.jsonl", "card.json", "images"


class Store:
    """The samples of a folder by number. Memory: 8 bytes a sample; each is read when it is asked for.

    Opening checks the card, and that ``samples.jsonl`` is what the card was written for.
    """

    def __init__(self, folder: Path | str) -> None:
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
    def has_pictures(self) -> bool:
        """False of a set that was built without its pictures, to score with and to export."""
        return bool(self.card.get("has_pictures", True))

    def check(self, *, decode: bool = False) -> None:
        """Raise ``DataError`` if the set is empty or an image is missing; ``decode`` reads every image too."""
        if not len(self):
            raise DataError(f"{self._path}: holds no samples; expected at least one")
        if not self.has_pictures:
            raise DataError(
                f"{self.folder}: was built without pictures, so it can be scored with and exported only; "
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

    def _check_size(self, found: tuple[int, int], told: tuple[int, int], number: int, path: str) -> None:
        if found != told:
            raise DataError(
                f"{self._where(number)}: {path} has {found[0]} x {found[1]} pixels upright; "
                f"expected {told[0]} x {told[1]}, which its boxes were drawn on"
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
        """Every line of a file that no builder vouches for is read once; a wrong hash is refused."""
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
                f"{str(self.card['hash'])[:12]}); build it again, or take `hash` out of {CARD} to use it as it is"
            )


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a data set; ``DataError`` if the folder is none or was made by another schema."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = "has no card.json" if folder.is_dir() else "does not exist"
        raise DataError(f"{folder}: {what}; expected a data set made by `virft build`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    found = card.get("schema_version") if isinstance(card, dict) else None
    if found != SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version is {found!r}; expected {SCHEMA_VERSION}")
    assert isinstance(card, dict)
    return card


def _scan(path: Path) -> tuple[array[int], str]:
    """Where every line starts, and the sha256 of the whole file."""
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
