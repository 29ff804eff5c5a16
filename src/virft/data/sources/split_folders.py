"""Names of folders that hold one published split each, such as train and valid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

_NAME_OF = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def split_named(folder: str) -> str | None:
    """Return the split that a folder is named after: train, validation or test; None for any other name.

    >>> split_named("valid"), split_named("train2017"), split_named("trainers")
    ('validation', 'train', None)
    """
    return _NAME_OF.get(re.sub(r"[-_]?(19|20)\d\d$", "", folder.lower()))


def splits_of_names(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each image by the folders in its name; empty unless all are in splits, at least two of them.

    The split is the first folder, or the first one below ``images``.

    >>> splits_of_names(["train/images/a.jpg", "valid/images/b.jpg"])
    {'train/images/a.jpg': 'train', 'valid/images/b.jpg': 'validation'}
    """
    return whole_splits({name: _split_of(name) for name in names})


def whole_splits(split_of: Mapping[str, str | None]) -> dict[str, str]:
    """Return the splits if every name has one and there are at least two, one of them for training; else nothing."""
    found = {name: split for name, split in split_of.items() if split is not None}
    splits = set(found.values())
    return found if len(found) == len(split_of) and len(splits) > 1 and "train" in splits else {}


def _split_of(name: str) -> str | None:
    folders = [part for part in PurePosixPath(name).parts[:-1] if part.lower() not in ("images", "jpegimages")]
    if not folders:
        return None
    darknet = re.fullmatch(r"obj_(.+)_data", folders[0])  # CVAT's YOLO 1.1
    return split_named(darknet[1] if darknet else folders[0])
