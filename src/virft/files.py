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
import tempfile
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


@contextmanager
def writing_to(out: Path | None) -> Iterator[None]:
    """Context manager that raises ``RunError`` if ``out``, a file or a folder, cannot be written, before its block.

    Also converts errors of the block that come from a protected or full disk, or that name ``out``, a part of it or one
    of its parents. ``out`` None: the block chooses its own files.
    """
    if out is not None:
        check_output(out)
    try:
        yield
    except OSError as error:
        file = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        concerns_out = out is not None and file is not None and (out in (file, *file.parents) or file in out.parents)
        is_refused = error.errno in (errno.EACCES, errno.EPERM) and file is None  # such as a port
        if not concerns_out and (error.errno not in _CANNOT_WRITE or is_refused):
            raise
        is_read = file is not None and not concerns_out and file.exists() and not os.access(file, os.R_OK)
        raise RunError(
            f"{file or out or 'output'}: cannot be {'read' if is_read else 'written'} ({error.strerror})"
        ) from error


def check_output(path: Path) -> None:
    """Raise ``RunError`` unless a file or folder can be made or replaced at ``path``. Leaves nothing behind."""
    try:
        number = _try_to_write(path)
    except OSError as error:
        number = error.errno or errno.EIO
    if number:
        raise RunError(f"{path}: cannot be written ({os.strerror(number)})")


def _try_to_write(path: Path) -> int:
    """Make and delete a file in the nearest existing folder; return the errno of a file in the way, 0 for none."""
    existing = next(one for one in (path, *path.parents) if one.exists())
    if existing.is_dir():
        tempfile.TemporaryFile(dir=existing).close()
    elif existing != path:
        return errno.ENOTDIR
    elif not os.access(path, os.W_OK):
        return errno.EACCES
    return 0


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
