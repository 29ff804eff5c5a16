"""Archive and wheel of `make dist`: reproducible, with every committed file and the commit."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "scripts/build_release.py")
CODE = ("__init__.py", "origin.py", "types.py", "errors.py", "py.typed", "models/tiny_weights/config.json")

if importlib.util.find_spec("build") is None:
    pytest.skip("needs the package build (in virft[dev])", allow_module_level=True)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def small_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the build files and a few modules of virft, because building all of it takes a minute."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (*SMALL, *(f"src/virft/{name}" for name in CODE)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "src" / "virft" / "models" / "__init__.py").write_text("")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    (folder / "src" / "virft" / "not_committed.py").write_text("")
    return folder


def test_two_builds_have_the_same_bytes_and_every_committed_file(small_checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/build_release.py", str(tmp_path / "dist")]
    output = subprocess.run(command, cwd=small_checkout, check=True, capture_output=True, text=True).stdout
    archive, wheel = sorted((tmp_path / "dist").iterdir(), reverse=True)
    assert [line.split()[1] for line in output.splitlines()] == [wheel.name, archive.name]
    assert (archive.name, wheel.name) == ("virft-0.2.0.tar.gz", "virft-0.2.0-py3-none-any.whl")
    commit = git(small_checkout, "rev-parse", "HEAD")[:12]
    committed = set(git(small_checkout, "ls-files").splitlines())

    files = zipfile.ZipFile(wheel)
    package = {name.removeprefix("src/") for name in committed if name.startswith("src/")}
    assert {name for name in files.namelist() if name.startswith("virft/")} == package | {"virft/commit.txt"}
    assert files.read("virft/commit.txt").decode() == f"{commit}\n"

    with tarfile.open(archive) as unpacked:
        members = unpacked.getmembers()
    inside = {member.name.removeprefix("virft-0.2.0/") for member in members if member.isfile()}
    assert committed - inside == set()
    assert "src/virft/not_committed.py" not in inside
    committed_s = int(git(small_checkout, "log", "-1", "--format=%ct"))
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(committed_s, 0, "")}


def test_every_committed_file_of_the_package_goes_into_a_wheel() -> None:
    # setuptools includes modules of folders with an __init__.py, and other files only if package-data lists them
    package = ROOT / "src" / "virft"
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["virft"]
    named = {path for pattern in patterns for path in package.glob(pattern + "/*" * pattern.endswith("**"))}
    committed = {ROOT / name for name in git(ROOT, "ls-files", "src").splitlines()}
    taken = {path for path in committed if path.suffix == ".py" and (path.parent / "__init__.py").exists()}
    assert committed - taken - named == set()
