"""The commit of the running virft: of a git checkout, or of the package that was built from one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from virft import __version__

COMMIT_FILE = "commit.txt"
"""File in the folder of a built package, written by ``setup.py``; a checkout has none."""


def source_commit(package: Path = Path(__file__).parent) -> str | None:
    """Return the first 12 digits of the commit, with "+" if files differ from it; None if it is unknown.

    ``package``: the folder of virft. The commit that the build recorded has priority. Without one, git is queried, but
    only if its checkout tracks these files: virft may be installed inside the checkout of another project.
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
    """Return version and commit, as ``virft --version`` prints them."""
    return f"{__version__}, commit {source_commit() or 'unknown'}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
