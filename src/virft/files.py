"""Files and folders that are whole or not there, also after a kill or a power cut; and what is told where none can be.

A file system may keep a new name and lose what it names. So everything is written aside, synced, renamed, and the
folder that holds the name is synced last.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from virft.errors import RunError

UNFINISHED, OLD = ".unfinished", ".old"
"""Endings of what is being written, and of what it is about to replace."""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""What file systems say that cannot sync a folder, and need not."""

_IN_THE_WAY = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)


def sync(path: Path) -> None:
    """Go on when what the file holds, or which names the folder holds, would outlast a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(number)


def sync_tree(folder: Path) -> None:
    """The same for a folder and everything in it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(place) / name)
        sync(Path(place))


def make_folder(folder: Path) -> None:
    """The folder is there, and those above it."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        sync(one.parent)


def write_text(path: Path, text: str) -> None:
    """The file holds the text, or, after a kill, what it held before."""
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
    """``new`` becomes ``goal``. What was there is deleted when that has happened; ``put_back`` is for kills between."""
    sync_tree(new)
    old = goal.with_name(goal.name + OLD)
    if goal.exists():
        shutil.rmtree(old, ignore_errors=True)
        goal.rename(old)
    new.rename(goal)
    sync(goal.parent)
    shutil.rmtree(old, ignore_errors=True)


def put_back(goal: Path) -> None:
    """Undo a ``replace_folder`` that was killed when the old folder was gone and the new one not there yet."""
    old = goal.with_name(goal.name + OLD)
    if old.exists() and not goal.exists():
        old.rename(goal)
        sync(goal.parent)


def remove_folder(folder: Path) -> None:
    """The folder is gone: at once by its name, so that a kill leaves no half of it."""
    old = folder.with_name(folder.name + OLD)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)


@contextmanager
def writing(place: Path, state: Callable[[], str]) -> Iterator[None]:
    """``RunError`` where the block cannot write because a disk is full or read-only; ``state``: what is left, in words.

    Other errors pass.
    """
    try:
        yield
    except Exception as error:
        if (number := _number_of(error)) not in _IN_THE_WAY:
            raise
        where = getattr(error, "filename", None) or place
        raise RunError(f"{where}: cannot be written ({os.strerror(number)}); {state()}") from error


def _number_of(error: Exception) -> int:
    """The system's number of what went wrong; 0 if it is not the system's. safetensors tells it in its text only."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else 0
