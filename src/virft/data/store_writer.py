"""Writes a data set on disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

from PIL import Image

from virft.data.counts import Counts, count_sample, negatives_frac
from virft.data.samples import sample_to_line
from virft.data.store import CARD, IMAGES, SAMPLES, SCHEMA_VERSION
from virft.errors import DataError
from virft.types import Sample


class StoreWriter:
    """Fills a hidden folder beside the goal and puts it in place when everything is written.

    The goal must be free, empty, or (with ``overwrite``) another data set. Leaving the block by an
    exception, or without ``finish``, leaves nothing behind.

        with StoreWriter(Path("coco8")) as writer:
            path = writer.add_image_file("bus/1.jpg", source)
            writer.add(Sample(..., images=(path,)))
            writer.finish(source={"kind": "coco"}, seed=0)
    """

    def __init__(self, folder: Path, *, overwrite: bool = False, link: bool = False) -> None:
        """``link``: symbolic links to the given image files instead of copies."""
        check_free(folder, overwrite=overwrite)
        self._goal = folder.absolute()
        self._link = link
        self._counts: Counts = {}
        self._ids: set[str] = set()
        self._images: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        self._goal.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self._goal.name}.", dir=self._goal.parent))
        # mkdtemp makes it readable for its owner alone; a data set is no secret.
        self._folder.chmod(0o777 & ~_umask())
        (self._folder / IMAGES).mkdir()
        self._lines: IO[bytes] = (self._folder / SAMPLES).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add_image_file(self, name: str, source: Path | None) -> str:
        """The path of a file's copy (or link) in the store. The same name again is not copied again.

        Without a file, the path that it would have; the card then says that pictures are missing.
        """
        path, target = self._place(name)
        if source is None:
            self._images.setdefault(path, b"")
        elif path not in self._images:
            if self._link:
                target.symlink_to(source.resolve())
            else:
                shutil.copyfile(source, target)
            self._images[path] = file_hash(source)
        return path

    def add_image(self, name: str, image: Image.Image) -> str:
        """The path of a picture saved in the store, in the format of the name's ending."""
        path, target = self._place(name)
        if path in self._images:
            raise ValueError(f"image {name} was added before")
        image.save(target)
        self._images[path] = file_hash(target)
        return path

    def add(self, sample: Sample) -> None:
        """Append a sample whose images were added."""
        if missing := [path for path in sample.images if path not in self._images]:
            raise ValueError(f"sample {sample.id}: image {missing[0]} was not added")
        if sample.id in self._ids:
            raise ValueError(f"sample id {sample.id!r} was added before")
        self._ids.add(sample.id)
        self._lines.write(sample_to_line(sample).encode("utf-8") + b"\n")
        count_sample(sample, self._counts)

    def finish(
        self, *, source: Mapping[str, Any], seed: int | None, skipped: Sequence[tuple[str, str]] = ()
    ) -> dict[str, Any]:
        """Write the card, put the folder in its place, and return the card.

        ``skipped``: (where, reason) of each record that was left out. The card names no folder of this
        machine and no date, so the same command gives the same bytes.
        """
        if not self._ids:
            raise DataError(f"{self._goal.name}: no samples came out of the source; nothing was written{_why(skipped)}")
        self._lines.close()
        card = self._card(source=source, seed=seed, skipped=skipped)
        text = json.dumps(card, indent=2, ensure_ascii=True, allow_nan=False)
        (self._folder / CARD).write_text(text + "\n", encoding="utf-8")
        self._move_into_place()
        return card

    def _card(
        self, *, source: Mapping[str, Any], seed: int | None, skipped: Sequence[tuple[str, str]]
    ) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in sorted(self._images):
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0" + self._images[path])
        return {
            "schema_version": SCHEMA_VERSION,
            "hash": hashlib.sha256((self._folder / SAMPLES).read_bytes()).hexdigest(),
            "images_hash": digest.hexdigest(),
            **({} if all(self._images.values()) else {"has_pictures": False}),
            "source": dict(source),
            "seed": seed,
            "num_samples": len(self._ids),
            "num_images": len(self._images),
            "negatives_frac": negatives_frac(self._counts),
            "counts": {task: dict(sorted(names.items())) for task, names in sorted(self._counts.items())},
            "num_skipped": len(skipped),
            "skipped": [{"where": where, "reason": reason} for where, reason in skipped],
        }

    def _place(self, name: str) -> tuple[str, Path]:
        """Path of an image inside the store, and where that is on disk now."""
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute():
            raise ValueError(f"{name!r} is no name for an image inside a folder")
        path = f"{IMAGES}/{'/'.join(parts)}"
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return path, target

    def _move_into_place(self) -> None:
        """Two renames at worst, so whenever it stops, what is in place is whole."""
        if not self._goal.exists():
            self._folder.rename(self._goal)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{self._goal.name}.old.", dir=self._goal.parent))
        self._goal.rename(old / self._goal.name)
        self._folder.rename(self._goal)
        shutil.rmtree(old)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """``DataError`` unless a data set may be put there: nothing is, or with ``overwrite`` only a data set."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a new folder")
    if not any(folder.iterdir()):
        return
    is_store = (folder / CARD).is_file() and (folder / SAMPLES).is_file()
    if not is_store:
        raise DataError(f"{folder}: holds files that are no data set; expected a new or empty folder")
    if not overwrite:
        raise DataError(f"{folder}: holds a data set already; choose another folder, or replace it with --overwrite")


def check_parts_free(out: Path, parts: Iterable[str], *, overwrite: bool) -> None:
    """``check_free`` for every part of a build; "" is ``out`` itself, which else must be no data set."""
    for part in parts:
        check_free(out / part, overwrite=overwrite)
        if part and (out / CARD).exists():
            raise DataError(f"{out}: holds a data set already; expected a folder for the data sets train and test")


def _why(skipped: Sequence[tuple[str, str]]) -> str:
    return f" (first of {len(skipped)} skipped: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""


def file_hash(path: Path) -> bytes:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
