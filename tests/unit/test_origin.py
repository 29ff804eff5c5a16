"""Version and commit, of a checkout and of a built package."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from virft import origin
from virft.cli import main as cli


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a package of one file."""
    package = tmp_path / "src" / "virft"
    package.mkdir(parents=True)
    (package / "types.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    return package


def test_a_checkout_has_its_commit_and_a_plus_if_files_differ(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")[:12]
    assert origin.source_commit(checkout) == head
    (checkout / "types.py").write_text("x = 1\n")
    assert origin.source_commit(checkout) == head + "+"


def test_the_commit_of_the_build_has_priority_over_a_checkout(checkout: Path) -> None:
    (checkout / origin.COMMIT_FILE).write_text("0123456789ab\n")
    assert origin.source_commit(checkout) == "0123456789ab"
    (checkout / origin.COMMIT_FILE).write_text("\n")  # built without a known commit
    assert origin.source_commit(checkout) is None


def test_the_checkout_of_another_project_is_not_used(checkout: Path) -> None:
    installed = checkout.parents[1] / ".venv" / "virft"
    installed.mkdir(parents=True)
    (installed / "types.py").write_text("")
    assert origin.source_commit(installed) is None


def test_without_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert origin.source_commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git either
    assert origin.source_commit(tmp_path) is None


def test_the_version_names_the_commit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"virft 0\.2\.0, commit ([0-9a-f]{12}\+?|unknown)\n", capsys.readouterr().out)
    monkeypatch.setattr(origin, "source_commit", lambda: None)
    assert origin.version_and_commit() == "0.2.0, commit unknown"
