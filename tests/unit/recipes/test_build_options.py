"""The summary of a build: missing negatives and the next command."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import save_coco
from virft.cli.main import main


def build(folder: Path, capsys: pytest.CaptureFixture[str], coco: Path, *options: str) -> list[str]:
    words = ["build", "coco", str(coco), str(coco.parent / "images"), str(folder / "out"), *options]
    assert main(words) == 0
    return [line.replace(str(folder), "") for line in capsys.readouterr().out.splitlines()]


def test_one_class_on_every_image_leaves_no_negatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = {f"{i}.png": [("cat", (5, 5, 20, 20))] for i in range(4)}
    coco = save_coco(tmp_path, boxes, categories=["cat"])
    lines = build(tmp_path, capsys, coco, "--shots", "3", "--negatives-frac", "0.2")
    assert lines[1:] == [
        "/out: requested 20% of questions about absent classes, got 0%: every image shows the only class (cat); build "
        "without --shots from images that lack a class too, or with more --classes",
        "next: virft preview /out (to check the boxes), then virft init --data /out",
    ]


def test_fewer_negatives_than_requested_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cat, dog = ("cat", (5, 5, 20, 20)), ("dog", (30, 5, 20, 20))
    # 7 present pairs and 1 absent one; half of all questions would be 7
    coco = save_coco(tmp_path, {"a.png": [cat, dog], "b.png": [cat, dog], "c.png": [cat, dog], "d.png": [cat]})
    (line,) = [one for one in build(tmp_path, capsys, coco, "--negatives-frac", "0.5") if "requested" in one]
    assert "requested 50% of questions about absent classes, got 12%" in line
    assert "these images have 1 pairs of an image and an absent class; 7 are needed" in line
    assert "add images that lack a class to the source" in line


def test_a_fraction_that_is_reached_is_not_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = {f"{i}.png": [("cat" if i % 2 else "dog", (5, 5, 20, 20))] for i in range(4)}
    coco = save_coco(tmp_path, boxes)
    lines = build(tmp_path, capsys, coco, "--negatives-frac", "0.5")
    assert "50% about an absent class" in lines[0]
    assert lines[-1] == "next: virft preview /out (to check the boxes), then virft init --data /out"
    assert not [line for line in lines if "requested" in line]


def test_the_next_command_knows_the_folder_of_a_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = save_coco(tmp_path, {f"{i}.png": [("cat", (5, 5, 20, 20))] for i in range(4)})
    lines = build(tmp_path, capsys, coco, "--test-frac", "0.5")
    assert lines[-1] == "next: virft preview /out/train (to check the boxes), then virft init --data /out"
