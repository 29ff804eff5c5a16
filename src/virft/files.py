"""Atomic writes: files and folders that are complete or absent, also after a kill or a power failure.

A file system may store a new name and lose the content that it names. Therefore everything is written under a temporary
name, synced and renamed, and the folder that contains the name is synced last.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from virft.errors import RunError

UNFINISHED, OLD = ".unfinished", ".old"
"""Suffixes of a file that is being written, and of a folder that is being replaced."""

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot sync a folder and do not need to."""

_CANNOT_WRITE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)
"""Errors of a disk that is full, read-only, protected or defective."""


def sync(path: Path) -> None:
    """Block until the content of a file, or the names in a folder, are on disk and survive a power failure.

    Raises ``OSError`` if the system cannot write it.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(number)


def sync_tree(folder: Path) -> None:
    """``sync`` a folder and everything below it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(place) / name)
        sync(Path(place))


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, if they do not exist, and sync each new name."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        sync(one.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically: after a kill it has either the new text or its earlier content."""
    new = path.with_name(path.name + UNFINISHED)
    try:
        new.write_text(text, encoding="utf-8")
        sync(new)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace_folder(new: Path, goal: Path) -> None:
    """Rename the folder ``new`` to ``goal`` and delete the folder that ``goal`` was before.

    A kill between the two renames leaves no ``goal``; ``put_back`` then restores the earlier folder.
    """
    sync_tree(new)
    old = goal.with_name(goal.name + OLD)
    if goal.exists():
        shutil.rmtree(old, ignore_errors=True)
        goal.rename(old)
    new.rename(goal)
    sync(goal.parent)
    shutil.rmtree(old, ignore_errors=True)


def put_back(goal: Path) -> None:
    """Restore the earlier folder after a ``replace_folder`` that was killed between its two renames."""
    old = goal.with_name(goal.name + OLD)
    if old.exists() and not goal.exists():
        old.rename(goal)
        sync(goal.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder. It is renamed first, so that a kill leaves no incomplete folder under its name."""
    old = folder.with_name(folder.name + OLD)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)


@contextmanager
def writing(place: Path, state: Callable[[], str]) -> Iterator[None]:
    """Context manager that raises ``RunError`` if its block cannot write because a disk is full or read-only.

    ``place`` is named in the message unless the error names a file itself; ``state()`` ends the message with what is
    saved. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if (number := _errno_of(error)) not in _CANNOT_WRITE:
            raise
        where = getattr(error, "filename", None) or place
        raise RunError(f"{where}: cannot be written ({os.strerror(number)}); {state()}") from error


def _errno_of(error: Exception) -> int:
    """Return the errno of an exception, 0 if it has none. safetensors states it only in its message."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else 0


def nearest_folder(path: Path) -> Path | None:
    """Return the existing folder whose path resembles that of a missing one most; None if none does.

    Only the first name that does not exist may differ: ``runs/mnie/model`` leads to ``runs/mine/model``.
    """
    missing = next((one for one in reversed([path, *path.parents]) if not one.exists()), None)
    if missing is None:
        return None
    try:
        siblings = [one.name for one in missing.parent.iterdir() if one.is_dir() and not one.name.startswith(".")]
    except OSError:
        return None
    rest = path.relative_to(missing)
    found = [missing.parent / name / rest for name in difflib.get_close_matches(missing.name, siblings, cutoff=0.7)]
    return next((one for one in found if one.is_dir()), None)
