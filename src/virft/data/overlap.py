"""Images that two datasets share, compared by content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from virft.data.store import Store
from virft.data.store_writer import file_hash


def shared_images(store: Store, others: Iterable[Store]) -> tuple[list[Path], int]:
    """Return the image files of a dataset whose content is also in ``others``, and the number of all its images.

    Only files of equal size are read. Images that do not exist are ignored.
    """
    hash_of = cache(file_hash)
    by_size: dict[int, set[Path]] = {}
    for other in others:
        for path in _images(other):
            by_size.setdefault(path.stat().st_size, set()).add(path)
    images = list(_images(store))
    shared = [
        path
        for path in images
        if (same_size := by_size.get(path.stat().st_size))
        and (path in same_size or hash_of(path) in map(hash_of, same_size))
    ]
    return shared, len(images)


def _images(store: Store) -> Iterator[Path]:
    """Yield each image file of a dataset once, links resolved."""
    paths = dict.fromkeys(Path(path).resolve() for sample in store for path in sample.images)
    yield from (path for path in paths if path.is_file())
