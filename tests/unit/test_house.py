"""Rules of the house that no other tool checks."""

from __future__ import annotations

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
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[><=]", requirement)[0] for requirement in wanted}
    assert names <= pins.keys()
    assert pins["torch"] == "2.13.0"
    assert pins["transformers"] == "5.19.0"


@pytest.mark.parametrize("name", ["README.md", "Makefile", ".ci/run", "pyproject.toml", "constraints.txt"])
def test_no_registry_and_no_folder_of_one_machine_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://[^ )]*(pypi|pythonhosted|download\.pytorch|mirror)|/home/|/root/|/opt/", text)


def test_pages_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
