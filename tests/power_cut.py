"""A disk that can lose its power: which states it could be in, had it been cut at any call that changes it.

What is real happens as always, but for syncing. Beside it stands what would outlast a power cut: of a file what it held
when it was last synced, of a folder the names it held then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_CALLS = ("rename", "replace", "mkdir", "rmdir", "unlink")

Tree = dict[str, bytes | None]
"""Path -> what the file holds; None for a folder."""


@dataclass(kw_only=True)
class Cut:
    """The moment before a ``call``.

    ``live``: the disk after a kill. ``synced``: only what was synced is left. ``torn``: all names are there, with half
    of what was not synced.
    """

    call: str
    live: Tree
    synced: Tree
    torn: Tree

    def tree(self, state: str) -> Tree:
        """One of the states, by its name."""
        found: Tree = getattr(self, state)
        return found

    def lay_out(self, state: str, place: Path) -> Path:
        """Makes one of the states in ``place``."""
        place.mkdir(parents=True)
        for name, content in sorted(self.tree(state).items()):
            if content is None:
                (place / name).mkdir(parents=True, exist_ok=True)
            else:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)
        return place


@dataclass(kw_only=True)
class _Disk:
    """Files and folders by their numbers. ``contents`` and ``entries`` are what was synced."""

    root: Path
    contents: dict[int, bytes] = field(default_factory=dict)
    entries: dict[int, dict[str, int]] = field(default_factory=dict)
    is_folder: dict[int, bool] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)

    def number_of(self, path: Path) -> int:
        """The number, which is not given to another file while the disk is looked at."""
        number = path.stat().st_ino
        if number not in self.is_folder:
            self.held.append(os.open(path, os.O_RDONLY))
            self.is_folder[number] = path.is_dir()
        return number

    def sync(self, opened: int) -> None:
        """What ``os.fsync`` makes outlast a cut."""
        path = Path(f"/proc/self/fd/{opened}").readlink()
        if not path.is_relative_to(self.root):
            return
        number = self.number_of(path)
        if self.is_folder[number]:
            self.entries[number] = {one.name: self.number_of(one) for one in path.iterdir()}
        else:
            self.contents[number] = path.read_bytes()

    def note(self, call: str) -> None:
        """The states that the disk could be in now."""
        live: Tree = {}
        torn: Tree = {}
        for path in sorted(self.root.rglob("*")):
            number, name = self.number_of(path), str(path.relative_to(self.root))
            live[name] = torn[name] = None
            if not self.is_folder[number]:
                live[name] = now = path.read_bytes()
                known = self.contents.get(number, b"")
                rest = now[len(known) :] if now.startswith(known) else b""
                torn[name] = known + rest[: len(rest) // 2]
        synced = dict(self._synced(self.number_of(self.root), Path()))
        self.cuts.append(Cut(call=call, live=live, synced=synced, torn=torn))

    def _synced(self, folder: int, path: Path) -> Iterator[tuple[str, bytes | None]]:
        for name, number in self.entries.get(folder, {}).items():
            if self.is_folder[number]:
                yield str(path / name), None
                yield from self._synced(number, path / name)
            else:
                yield str(path / name), self.contents.get(number, b"")


@contextmanager
def watched_disk(root: Path, patch: pytest.MonkeyPatch) -> Iterator[list[Cut]]:
    """The moments before each call that changes ``root`` or syncs something in it, and the last one of all."""
    disk = _Disk(root=root.resolve())

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            disk.note(name)
            return real(*arguments, **named)

        return call

    with patch.context() as patched:
        for name in _CALLS:
            patched.setattr(os, name, noting(name, getattr(os, name)))
        patched.setattr(os, "fsync", noting("fsync", disk.sync))
        try:
            yield disk.cuts
        finally:
            disk.note("end")
            for opened in disk.held:
                os.close(opened)


def drop(place: Path) -> None:
    """Deletes a laid out state."""
    shutil.rmtree(place)
