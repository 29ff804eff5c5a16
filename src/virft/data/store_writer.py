"""Write a dataset to disk atomically."""

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
from virft.data.store import CARD, DATASET_SCHEMA_VERSION, IMAGES, SAMPLES
from virft.errors import DataError
from virft.types import Sample


class StoreWriter:
    """Writes samples and images to a hidden folder, which ``finish`` renames to the dataset folder.

    The dataset folder must be new, empty, or (with ``overwrite``) another dataset. If the block ends by an exception or
    without ``finish``, nothing is left on disk.

        with StoreWriter(Path("coco8")) as writer:
            path = writer.add_image_file("bus/1.jpg", source)
            writer.add(Sample(..., images=(path,)))
            writer.finish(source={"kind": "coco"}, seed=0)
    """

    def __init__(self, folder: Path, *, overwrite: bool = False, link: bool = False) -> None:
        """``link``: make symbolic links to image files instead of copies. Raises ``DataError`` as ``check_free``."""
        check_free(folder, overwrite=overwrite)
        self._goal = folder.absolute()
        self._link = link
        self._counts: Counts = {}
        self._ids: set[str] = set()
        self._images: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        self._goal.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self._goal.name}.", dir=self._goal.parent))
        # mkdtemp makes a folder that only its owner can read; a dataset gets the usual permissions.
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
        """Copy (or link) an image file into the dataset and return its path there; each name is copied once.

        ``source`` None: only return the path; the card then says that images are missing.
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
        """Save an image in the dataset, in the format of the name's suffix, and return its path there.

        Raises ``ValueError`` if the name was used before.
        """
        path, target = self._place(name)
        if path in self._images:
            raise ValueError(f"image {name} was added before")
        image.save(target)
        self._images[path] = file_hash(target)
        return path

    def add(self, sample: Sample) -> None:
        """Append a sample. Raises ``ValueError`` if an image was not added, or the id was used before."""
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
        """Write the card, move the folder to its place, and return the card.

        ``skipped``: (where, reason) of each skipped record. The card has no absolute path and no date, so that the same
        command gives the same bytes. Raises ``DataError`` if no sample was added.
        """
        if not self._ids:
            first = _first_skipped(skipped)
            raise DataError(f"{self._goal.name}: no samples came out of the source; nothing was written{first}")
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
            "schema_version": DATASET_SCHEMA_VERSION,
            "hash": hashlib.sha256((self._folder / SAMPLES).read_bytes()).hexdigest(),
            "images_hash": digest.hexdigest(),
            **({} if all(self._images.values()) else {"has_images": False}),
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
        """Return the path of an image inside the dataset, and its current place on disk."""
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute():
            raise ValueError(f"{name!r} is not a path inside a folder")
        path = f"{IMAGES}/{'/'.join(parts)}"
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return path, target

    def _move_into_place(self) -> None:
        """Rename the folder: at most two renames, so that after a kill the dataset is complete or absent."""
        if not self._goal.exists():
            self._folder.rename(self._goal)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{self._goal.name}.old.", dir=self._goal.parent))
        self._goal.rename(old / self._goal.name)
        self._folder.rename(self._goal)
        shutil.rmtree(old)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise ``DataError`` unless the folder is new or empty, or with ``overwrite`` a dataset."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a new folder")
    if not any(folder.iterdir()):
        return
    is_store = (folder / CARD).is_file() and (folder / SAMPLES).is_file()
    if not is_store and (parts := sorted(one.parent.name for one in folder.glob(f"*/{SAMPLES}"))):
        raise DataError(
            f"{folder}: holds the datasets {', '.join(parts)} of another build; choose another folder, delete it, or "
            "build the same splits with --overwrite"
        )
    if not is_store:
        raise DataError(f"{folder}: holds files that are not a dataset; expected a new or empty folder")
    if not overwrite:
        raise DataError(f"{folder}: holds a dataset already; choose another folder, or replace it with --overwrite")


def check_parts_free(out: Path, parts: Iterable[str], *, overwrite: bool) -> None:
    """Raise ``DataError`` as ``check_free`` for the folder of each part of a build; "" is ``out`` itself.

    A build in parts also needs an ``out`` that is not a dataset.
    """
    for part in parts:
        check_free(out / part, overwrite=overwrite)
        if part and (out / CARD).exists():
            raise DataError(f"{out}: holds a dataset already; expected a folder for the datasets train and test")


def _first_skipped(skipped: Sequence[tuple[str, str]]) -> str:
    return f" (first of {len(skipped)} skipped: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""


def file_hash(path: Path) -> bytes:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
