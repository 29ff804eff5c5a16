"""Written files are complete or absent, and failed writes are reported."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from power_cut import watched_disk
from virft.errors import RunError
from virft.files import (
    check_output,
    make_folder,
    nearest_folder,
    put_back,
    remove_folder,
    replace_folder,
    sync,
    write_text,
    writing,
    writing_to,
)


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """Limit the size of files, as on a full disk: the system refuses every larger write of the process."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_a_text_is_replaced_atomically_whenever_the_power_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched_disk(tmp_path, monkeypatch) as cuts:
        write_text(tmp_path / "a", "before")
        write_text(tmp_path / "a", "after!")
    for cut in cuts:
        for state in ("live", "synced", "torn"):
            assert cut.tree(state).get("a") in (None, b"before", b"after!"), (cut.call, state)
    assert cuts[-1].synced == {"a": b"after!"}


def test_a_text_that_does_not_fit_leaves_only_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with room_for(10), pytest.raises(OSError, match="File too large"):
        write_text(tmp_path / "a", "x" * 11)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "before"}


def test_a_folder_is_replaced_atomically_or_can_be_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    for name, text in (("new", "after"), ("goal", "before")):
        (disk / name).mkdir(parents=True)
        write_text(disk / name / "file", text)
    sync(disk)
    with watched_disk(disk, monkeypatch) as cuts:
        for path in (disk / "new" / "file", disk / "goal" / "file", disk / "new", disk / "goal", disk):
            sync(path)
        replace_folder(disk / "new", disk / "goal")
    assert {name: held for name, held in cuts[-1].live.items() if held is not None} == {"goal/file": b"after"}
    monkeypatch.undo()
    found = []
    for number, cut in enumerate(cuts[9:]):  # after the five above, each recorded when it began
        for state in ("live", "synced", "torn"):
            place = cut.lay_out(state, tmp_path / f"{number}{state}")
            put_back(place / "goal")
            found.append((place / "goal" / "file").read_text())
    assert set(found) == {"before", "after"}


def test_an_existing_folder_is_not_replaced_by_put_back(tmp_path: Path) -> None:
    for name in ("goal", "goal.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    put_back(tmp_path / "goal")
    assert (tmp_path / "goal" / "file").read_text() == "goal"
    put_back(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_is_removed_with_its_content(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_failed_write_is_reported_with_the_saved_state(tmp_path: Path, number: int) -> None:
    message = rf"^f/a: cannot be written \({os.strerror(number)}\); all is well$"
    with pytest.raises(RunError, match=message), writing(tmp_path, lambda: "all is well"):
        raise OSError(number, os.strerror(number), "f/a")


def test_a_failed_write_of_safetensors_is_reported_too(tmp_path: Path) -> None:
    message = rf"^{tmp_path}: cannot be written \(File too large\); half is left$"
    with room_for(1000), pytest.raises(RunError, match=message), writing(tmp_path, lambda: "half is left"):
        save_file({"a": torch.zeros(1000)}, tmp_path / "a")


@pytest.mark.parametrize("error", [ValueError("os error 28"), FileNotFoundError(errno.ENOENT, "no"), KeyError("a")])
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), writing(tmp_path, lambda: ""):
        raise error


def test_a_file_system_that_cannot_sync_folders_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(opened: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    number = errno.EINVAL
    sync(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        sync(tmp_path)


def test_the_nearest_folder_differs_in_one_name(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "mint").touch()
    assert nearest_folder(tmp_path / "runs" / "mnie" / "model") == tmp_path / "runs" / "mine" / "model"
    assert nearest_folder(tmp_path / "run" / "mine") == tmp_path / "runs" / "mine"
    assert nearest_folder(tmp_path / "runs" / "mnie" / "best") is None
    assert nearest_folder(tmp_path / "runs" / "other") is None
    assert nearest_folder(tmp_path / "runs") is None  # it exists
    assert nearest_folder(tmp_path / "runs" / "mint" / "model") is None  # in a file


def test_a_place_that_cannot_be_written_is_refused_and_another_is_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (tmp_path, tmp_path / "new" / "a", file):
        check_output(path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "mine"
    with pytest.raises(RunError, match=rf"^{file}/a/b: cannot be written \(Not a directory\)$"):
        check_output(file / "a" / "b")
    with pytest.raises(RunError, match=rf"^{tmp_path}/a+: cannot be written \(File name too long\)$"):
        check_output(tmp_path / ("a" * 300))


def test_errors_that_concern_the_output_are_the_users(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    for file in (out, out / "c", out.parent):
        with pytest.raises(RunError, match=rf"^{file}: cannot be written \(Is a directory\)$"), writing_to(out):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    with pytest.raises(RunError, match=r"b: cannot be written \(No space left on device\)$"), writing_to(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no", "input"), PermissionError(errno.EACCES, "no"), KeyError("a")]
)
def test_errors_of_other_files_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), writing_to(tmp_path / "a"):
        raise error
