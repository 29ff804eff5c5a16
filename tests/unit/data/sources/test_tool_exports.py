"""Every tool's export of one scene is read back to the same boxes; the page's commands are those that were run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tool_exports import CLASSES, EXPORTS, SCENE, SIZE, SPLIT_OF, Export, save_images
from virft.cli import main as cli
from virft.data.store import Store

PAGE = Path(__file__).parents[4] / "docs" / "labelling_tools.md"


@pytest.mark.parametrize("export", EXPORTS, ids=[f"{one.tool}, {one.format}" for one in EXPORTS])
def test_an_export_is_read_back_to_the_same_boxes(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export.write(tmp_path)
    monkeypatch.chdir(tmp_path)

    assert cli.main(shlex.split(export.command)) == 0

    out = Path("data/mine")
    stores = {"": out} if not export.is_split else {"train": out / "train", "valid": out / "validation"}
    found: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for split, folder in stores.items():
        for sample in Store(folder):
            image = Path(sample.images[0]).name[0]
            assert split in ("", SPLIT_OF[image])
            assert sample.image_sizes == (SIZE,)
            boxes = [item.box.xyxy for item in sample.target.items]
            found.setdefault(image, {})[sample.query] = sorted(boxes)
    expected = {
        image: {label: [pytest.approx(box, abs=2e-3) for box in sorted(boxes)] for label, boxes in objects.items()}
        for image, objects in SCENE.items()
        if image in export.images
    }
    assert found == expected
    assert "skipped" not in capsys.readouterr().out


def test_a_tree_of_class_folders_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in CLASSES:
        save_images(tmp_path / label)
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split("build folders . data/mine --domain animal")) == 0
    assert sorted(sample.target.text for sample in Store(Path("data/mine"))) == ["fox"] * 3 + ["owl"] * 3


def page_rows() -> Iterator[tuple[str, str, str]]:
    """Tool, export and command of each row of the page's table."""
    tool = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and (command := re.match(r"`virft (build [^`]*)`", cells[2])):
            tool = re.sub(r"\[([^]]*)\]\(.*\)", r"\1", cells[0]) or tool
            yield tool, cells[1], command[1]


@pytest.mark.parametrize(("tool", "export", "command"), [row for row in page_rows() if "folders" not in row[2]])
def test_the_command_of_the_page_was_run(tool: str, export: str, command: str) -> None:
    run = [one.command for one in EXPORTS if one.tool == tool and export.startswith(one.format)]
    words = [re.sub(r"^(EXPORT|FOLDER)(?=/|$)", ".", word) for word in shlex.split(command)]
    assert shlex.join(words).replace("./", "") in run


def test_the_page_has_a_row_for_every_tool() -> None:
    assert {tool for tool, _, _ in page_rows()} == {one.tool for one in EXPORTS}
