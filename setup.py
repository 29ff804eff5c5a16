"""Build steps that pyproject.toml cannot express: builds contain their commit, and archives are reproducible."""

from __future__ import annotations

import gzip
import os
import sys
import tarfile
import time
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "src"))

from virft.origin import COMMIT_FILE, source_commit  # noqa: E402

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def write_commit(package: Path) -> None:
    """Write the commit of these files into a copy of the package; empty if it is unknown."""
    (package / COMMIT_FILE).write_text(f"{source_commit(ROOT / 'src' / 'virft') or ''}\n", encoding="utf-8")


class BuildWithCommit(build_py):
    """Add the commit to the built package; an editable install reads it from its checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_commit(Path(self.build_lib) / "virft")


class ReproducibleArchive(sdist):
    """Build a source archive with its commit, without user names, times and permissions of the machine."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir) / "src" / "virft")

    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        path = f"{base_name}.tar.gz"
        with (
            Path(path).open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=EPOCH) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(str(base_dir), filter=_without_machine)
        return path


def _without_machine(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = EPOCH
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


setup(cmdclass={"build_py": BuildWithCommit, "sdist": ReproducibleArchive})
