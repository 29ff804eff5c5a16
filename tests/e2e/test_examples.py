"""Commands, configs and programs in README, docs and examples run."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from virft.cli import main as cli
from virft.config.toml_file import load_config, parse
from virft.data.sources.scenes import write_few_shot_scenes
from virft.data.store import Store
from virft.integrations.export import export_coco
from virft.models.tiny import IMAGE_SIZE, tiny_folder
from virft.rewards.extra import load_function
from virft.scenes.assets import class_names

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language in a page; "" for blocks without a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for named, block in found if named == language]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_its_result(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_inference_example_writes_an_annotated_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ask", str(tmp_path / "a.png")])
    runpy.run_path(str(ROOT / "examples" / "03_ask_the_model.py"), run_name="__main__")
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30
    assert f"python examples/{example.name}" in text


def test_the_examples_own_reward_can_be_named_in_a_config() -> None:
    assert load_function("examples/02_own_reward.py:few_boxes", ROOT).__name__ == "few_boxes"  # type: ignore[attr-defined]


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_a_config_is_valid_and_opens_with_what_it_takes(config: Path) -> None:
    load_config(config)
    head = [line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("# command", "# hardware", "# wall time", "# expected"):
        assert any(line.startswith(word) for line in head), word


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_configs_in_a_page_are_valid(page: Path) -> None:
    for block in blocks(page, "toml"):
        if tomllib.loads(block):  # not a comment alone
            parse(block, origin=page.name)


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, those without a language too; continued lines are joined.

    In a block with outputs, commands follow a prompt, "$ virft check DATA". One that prints an error is skipped.
    """
    shell = [block for language in ("", "sh") for block in blocks(page, language)]
    lines = [line for block in shell for line in block.replace("\\\n", " ").splitlines()]
    errors = {line for line in lines if re.match(r"virft( \w+)?: ", line)}
    failing = {line for line, after in pairwise(lines) if after in errors}
    return [line.removeprefix("$ ") for line in lines if line not in errors | failing]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_in_a_page_are_ones_that_the_command_line_takes(page: Path) -> None:
    for line in commands(page):
        launched = re.match(r"accelerate launch .*-m virft (.*)", line)
        if launched or (line.startswith("virft ") and "VERB" not in line):
            words = launched[1] if launched else line.removeprefix("virft ")
            # placeholders such as CONFIG [KEY=VALUE ...] [--option] become arguments
            cli.parse_arguments(shlex.split(re.sub(r"\[KEY=VALUE \.\.\.\]|[][]", "", words), comments=True))


def test_other_commands_in_pages_name_existing_targets_and_files() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    found = set()
    for line in (line for page in PAGES for line in commands(page)):
        if not line.startswith(("make ", "pip ", "python ", "sbatch ")):
            continue
        words = shlex.split(line, comments=True)
        match words:
            case ["make", target, *_]:
                assert target in targets, line
            case ["pip", "install", "-e", package]:
                assert package.removeprefix(".[").removesuffix("]") in extras, line
            case ["python", "-c", *_]:
                pass
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module) is not None, line
            case ["python", program, *_]:
                assert (ROOT / program).is_file(), line
            case ["sbatch", *_]:
                assert (ROOT / next(word for word in words if word.endswith(".sbatch"))).is_file(), line
        found.add(words[0])
    assert found == {"make", "pip", "python", "sbatch"}


def test_json_in_a_page_is_json() -> None:
    lines = [line for page in PAGES for block in blocks(page, "json") for line in block.splitlines()]
    assert [type(json.loads(line)) for line in lines] == [dict] * len(lines)
    assert len(lines) >= 6


MINE = 'data.train = "data/mine/train"\nrun.dir = "runs/mine"\n'
"""The config mine.toml of the pages, without what ``virft init`` fits."""
QUICK = (
    "explain",
    "check data",
    "preview",
    "export raccoon",
    "ask virft-tiny photo",
    "audit mine.toml",
    "build scenes novel-4",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that commands and programs of the pages name."""
    folder = tmp_path_factory.mktemp("world")
    train = folder / "data" / "mine" / "train"
    write_few_shot_scenes(train, task="detection", classes=class_names("novel")[:2], shots=2, seed=0, size=IMAGE_SIZE)
    for copy in ("raccoon", "data/mine/test", "data/cells/train", "data/bccd/train"):
        shutil.copytree(train, folder / copy)
    shutil.copyfile(next((train / "images").iterdir()), folder / "photo.jpg")
    shutil.copytree(tiny_folder(), folder / "runs" / "mine" / "model")
    (folder / "mine.toml").write_text(MINE)
    turns = [{"value": "<image>Where is the fox?"}, {"value": "[12, 10, 90, 95]"}]
    (folder / "train.jsonl").write_text(json.dumps({"image": "a.jpg", "conversations": turns}) + "\n")
    write_few_shot_scenes(
        folder / "images",
        task="detection",
        classes=class_names("novel")[:1],
        shots=25,
        seed=0,
        negatives_frac=0.0,
        size=IMAGE_SIZE,
    )
    shutil.copyfile(export_coco(Store(folder / "images"), folder / "coco"), folder / "annotations.json")
    return folder


@pytest.mark.parametrize(
    "line",
    sorted({line for page in PAGES for line in commands(page) if line.startswith(tuple(f"virft {q}" for q in QUICK))}),
)
def test_a_quick_command_of_a_page_runs(line: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    status = cli.main(shlex.split(line, comments=True)[1:])
    assert status == 0


def test_there_are_quick_commands_of_every_kind() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    assert [quick for quick in QUICK if not any(line.startswith(f"virft {quick}") for line in lines)] == []


ELSEWHERE = ("trl", "vllm", "swift", "fiftyone")
"""Packages of other environments: of a program that needs them, only its imports from virft are tested."""


@pytest.mark.parametrize(
    "page",
    # the program of report.md runs in tests/unit/report/read, on two runs
    [page for page in PAGES if blocks(page, "python") and page.name not in ("report.md", "api.md")],
    ids=lambda path: path.stem,
)
def test_python_in_a_page_runs(page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(folder)
    if page.name == "README.md":
        # its program builds the dataset itself, and trains: one small step, into a new run folder
        shutil.rmtree(folder / "data")
        config = (folder / "mine.toml").read_text().replace("runs/mine", "runs/python")
        (folder / "mine.toml").write_text(f"{config}grpo.steps = 1\ngrpo.prompts_per_step = 2\ngrpo.group_size = 2\n")
    if importlib.util.find_spec("torchvision") is None:
        monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda _: None)
    for block in blocks(page, "python"):
        program = ast.parse(block)
        taken = [one for one in program.body if isinstance(one, ast.ImportFrom)]
        imported = [one.module for one in taken]
        imported += [name.name for one in program.body if isinstance(one, ast.Import) for name in one.names]
        if any(name.split(".")[0] in ELSEWHERE for name in imported) or "Qwen/" in block:
            program.body = [one for one in taken if one.module.startswith("virft")]
        if "virft.integrations.verifiers" in imported and importlib.util.find_spec("verifiers") is None:
            continue
        exec(compile(program, str(page), "exec"), {})


def test_programs_of_the_api_page_run_from_top_to_bottom(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "images" / "images", "images")
    shutil.copyfile(world / "annotations.json", "annotations.json")
    shutil.copyfile(world / "photo.jpg", "photo.jpg")
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "api.md", "python"):
        exec(compile(block, "docs/api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "data/mine/train: 8 questions on 8 images" in printed
    assert len(re.findall(r"^step \d/3", printed, re.MULTILINE)) == 3
    assert Path("runs/mine/report.html").is_file()
    assert Path("photo_answer.png").is_file()


def test_outputs_on_the_api_page_are_those_of_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(MINE)
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner()
    programs = blocks(ROOT / "docs" / "api.md", "pycon")
    assert len(programs) >= 8
    for program in programs:
        example = doctest.DocTestParser().get_doctest(program, names, "docs/api.md", None, 0)
        runner.run(example, clear_globs=False)
        names = example.globs
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_saved_outputs_are_of_the_same_kinds(notebook: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed here")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed here")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed here")
    saved = nbformat.read(notebook, as_version=4)
    run = nbformat.read(notebook, as_version=4)
    for cell in run.cells:  # a shorter training: the cells are under test, not what the model learns
        cell.source = cell.source.replace('"steps": 30,', '"steps": 3,').replace('"log_every": 5', '"log_every": 1')
    client = nbclient.NotebookClient(
        run, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # CellExecutionError shows the cell and the traceback
    for cell, again in zip(saved.cells, run.cells, strict=True):
        assert output_kinds(cell) <= output_kinds(again), cell.source


def output_kinds(cell: Any) -> set[str]:
    """Return the MIME types of a cell's outputs, and "stdout"."""
    outputs = cell.get("outputs", ())
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    return kinds | {output.name for output in outputs if output.output_type == "stream"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_saved_notebook_is_small_and_names_no_machine(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/tmp/|/home/|/root/|C:\\\\", re.sub(r'"image/png": "[^"]*"', "", text))
    saved = json.loads(text)
    outputs = [output for cell in saved["cells"] for output in cell.get("outputs", ())]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "stream"}
    assert all(output["name"] == "stdout" for output in outputs if output["output_type"] == "stream")
    assert [cell["metadata"] for cell in saved["cells"]] == [{}] * len(saved["cells"])  # no execution times
    assert all(cell["outputs"] for cell in saved["cells"] if cell["cell_type"] == "code")


def test_there_are_notebooks_to_begin_with() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["quickstart", "your_own_images"]
