"""``import virft`` is fast, and gives the documented names to people and to tools."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import virft

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "transformers", "PIL", "jinja2")


@pytest.mark.parametrize("name", ["__version__", "Box", "Config", "VirftError"])
def test_import_loads_no_large_package(name: str) -> None:
    code = f"import sys, virft; virft.{name}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_reward_needs_no_pytorch() -> None:
    code = "import sys, virft; virft.reward('<answer>fox</answer>', 'fox', 'classification'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_each_public_name_can_be_imported() -> None:
    for name in virft.__all__:
        assert getattr(virft, name) is not None
    assert virft.Box(x1=0, y1=0, x2=2, y2=3).area == 6
    assert set(virft.TASKS) >= {"detection", "classification", "grounding"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'virft' has no attribute 'Modle'"):
        virft.Modle  # type: ignore[attr-defined]  # noqa: B018


def test_dir_lists_the_public_names_only() -> None:
    assert [name for name in dir(virft) if not name.startswith("__")] == sorted(virft.__all__)


def test_type_checkers_see_the_names_that_are_imported_lazily() -> None:
    tree = ast.parse(Path(virft.__file__).read_text(encoding="utf-8"))
    imports = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    imports = {one for one in imports if one.startswith("virft.")}
    assert imports == {f"{module}.{name}" for name, module in virft._MODULE_OF.items()}  # type: ignore[attr-defined]
    assert sorted(virft._MODULE_OF) == sorted(virft.__all__)  # type: ignore[attr-defined]


def test_mypy_knows_signatures_and_refuses_unknown_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import virft\n\n"
        'reveal_type(virft.load("virft-tiny").detect("a.jpg", "fox"))\n'
        'reveal_type(virft.load("virft-tiny").detect(["a.jpg"], "fox"))\n'
        'reveal_type(virft.train("mine.toml").metrics)\n'
        "virft.lod\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert re.findall(r'Revealed type is "([^"]+)"', done.stdout) == [
        "virft.inference.result.Result",
        "list[virft.inference.result.Result]",
        "virft.recipes.results.Records",
    ]
    assert 'Module has no attribute "lod"' in done.stdout


@pytest.mark.parametrize("name", virft.__all__)
def test_each_public_name_is_documented_with_an_example(name: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.search(rf"^#+ .*`{name}`", page, re.MULTILINE), f"docs/api.md has no heading with `{name}`"
    programs = re.findall(r"^```(?:python|pycon)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert any(f"virft.{name}" in program for program in programs), f"no program in docs/api.md uses virft.{name}"
