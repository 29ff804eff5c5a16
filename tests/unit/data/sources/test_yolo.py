"""YOLO folders, valid and invalid."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.yolo import read_yolo
from virft.data.store import Store
from virft.errors import ConfigError, DataError


def save(root: Path, labels: str | None, *, name: str = "train/a", names: str = "names: [cat, dog]\n") -> Path:
    """An image of 64 x 48, its labels, and the names."""
    save_image(root / "images" / f"{name}.png")
    if labels is not None:
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(labels)
    (root / "data.yaml").write_text(names)
    return root


def read(folder: Path, **options: tuple[str, ...]) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    skipped = Skipped()
    return read_yolo(folder, skipped=skipped, **options), skipped.records


def test_fractions_of_the_sides_become_pixels(tmp_path: Path) -> None:
    annotated, skipped = read(save(tmp_path, "0 0.5 0.5 0.25 0.5\n1 0 0 0.5 0 0.25 0.5\n\n"))
    assert annotated.images["images/train/a.png"].boxes == {"cat": ((24, 12, 40, 36),), "dog": ((0, 0, 32, 24),)}
    assert skipped == []


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    save(tmp_path, "0 0.5 0.5 1 1\n")
    save_image(tmp_path / "images" / "train" / "a.png", exif=tags)
    assert read(tmp_path)[0].images["images/train/a.png"].boxes == {"cat": ((0, 0, 48, 64),)}


@pytest.mark.parametrize("names", ["names: {0: cat, 1: dog}\n", "names:\n- cat\n- dog\n"])
def test_names_can_be_a_list_or_by_number(tmp_path: Path, names: str) -> None:
    assert read(save(tmp_path, "1 0.5 0.5 0.5 0.5\n", names=names))[0].classes == ("cat", "dog")


def test_names_can_be_in_a_text_file_and_labels_next_to_images(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read(tmp_path)[0].images["a.png"].boxes == {"dog": ((16, 12, 48, 36),)}


def test_an_image_without_a_label_file_has_no_objects(tmp_path: Path) -> None:
    save(tmp_path, None, name="train/b")
    annotated, _ = read(save(tmp_path, "0 0.5 0.5 0.25 0.5\n"))
    assert annotated.images["images/train/b.png"].is_absent("cat")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7 0.5 0.5 0.5 0.5", "class 7 has no name; expected one of 0 to 1"),
        ("0 0.5 0.5 0.5", "'0 0.5 0.5 0.5' does not have 4 numbers, or an even number of at least 6, after the class"),
        (
            "0 0.5 0.5 0.5 x",
            "'0 0.5 0.5 0.5 x' does not have 4 numbers, or an even number of at least 6, after the class",
        ),
        (
            "0 0.5 0.5 nan 1",
            "'0 0.5 0.5 nan 1' does not have 4 numbers, or an even number of at least 6, after the class",
        ),
        ("0 0.5 0.5 0 0.5", "box [32, 12, 32, 36] has x2 <= x1; expected x1 < x2 in pixels of the original image"),
        ("0 0.9 0.5 0.5 0.5", "box [41.6, 12, 73.6, 36] reaches outside its image; expected it inside [0, 0, 64, 48]"),
    ],
)
def test_an_invalid_line_is_skipped_and_reported(tmp_path: Path, line: str, reason: str) -> None:
    annotated, skipped = read(save(tmp_path, f"1 0.5 0.5 0.25 0.5\n{line}\n"))
    assert set(annotated.images["images/train/a.png"].boxes) == {"dog"}
    assert skipped == [("labels/train/a.txt:2", reason)]


def test_invalid_folders_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "images" / "train" / "b.png").write_bytes(b"no picture")
    annotated, skipped = read(tmp_path)
    assert set(annotated.images) == {"images/train/a.png"}
    assert skipped[0][0] == "image images/train/b.png"
    with pytest.raises(ConfigError, match=r"class 'cow' is not in .*; it has cat, dog"):
        read(tmp_path, classes=("cow",))
    (tmp_path / "data.yaml").write_text("names: 3\n")
    with pytest.raises(DataError, match=r"data\.yaml: names is 3; expected a list of class names"):
        read(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"has no class names; expected a YAML file with names, or classes\.txt"):
        read(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    with pytest.raises(DataError, match=r"no image has a label file; expected labels/NAME\.txt"):
        read(tmp_path)


def test_the_command_builds_a_dataset(tmp_path: Path) -> None:
    save(tmp_path / "in", "0 0.5 0.5 0.25 0.5\n")
    assert main(["build", "yolo", str(tmp_path / "in"), str(tmp_path / "d")]) == 0
    assert [one.id for one in Store(tmp_path / "d")] == ["images/train/a.png:cat"]
