"""What the repository prints for users to run, runs."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from virft import cli
from virft.config_file import load, parse
from virft.rewards.extra import load_function

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_says_something(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_asking_the_model_draws_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ask", str(tmp_path / "a.png")])
    runpy.run_path(str(ROOT / "examples" / "03_ask_the_model.py"), run_name="__main__")
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{example.name}" in text


def test_the_examples_own_reward_can_be_named_in_a_config() -> None:
    assert load_function("examples/02_own_reward.py:few_boxes", ROOT).__name__ == "few_boxes"  # type: ignore[attr-defined]


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_a_config_is_valid_and_opens_with_what_it_takes(config: Path) -> None:
    load(config)
    head = [line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("# command", "# hardware", "# wall time", "# expected"):
        assert any(line.startswith(word) for line in head), word


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_configs_in_a_page_are_valid(page: Path) -> None:
    for block in blocks(page, "toml"):
        parse(block, origin=page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_in_a_page_are_ones_that_the_command_line_takes(page: Path) -> None:
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("virft ") and "VERB" not in line:
                cli._arguments(shlex.split(line, comments=True)[1:])


def test_python_in_a_page_compiles() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block, str(page), "exec")
