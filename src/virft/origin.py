"""Which commit of virft this is: of a checkout, or of the package that was built from one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from virft import __version__

COMMIT_FILE = "commit.txt"
"""Beside this file in a built package, and nowhere else; ``setup.py`` writes it."""


def source_commit(package: Path = Path(__file__).parent) -> str | None:
    """The first 12 digits of the commit, with "+" where files differ from it; None where none is known.

    ``package``: the folder of virft. What the build wrote down counts. Without that, a checkout is asked, but only one
    that keeps these very files: virft may be installed inside the checkout of something else.
    """
    try:
        return (package / COMMIT_FILE).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        pass
    try:
        _git(package, "ls-files", "--error-unmatch", "types.py")
        head = _git(package, "rev-parse", "--short=12", "HEAD")
        changed = _git(package, "status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def version_and_commit() -> str:
    """Version and commit, as ``virft --version`` tells them."""
    return f"{__version__}, commit {source_commit() or 'unknown'}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
