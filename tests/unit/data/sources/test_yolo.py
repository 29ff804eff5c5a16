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


@pytest.mark.parametrize("line", ["7 0.5 0.5 0.5 0.5", "cat 0.5 0.5 0.5 0.5", "0.5 0.5 0.5 0.5 0.5"])
def test_a_line_of_unknown_class_makes_every_class_doubtful(tmp_path: Path, line: str) -> None:
    image = read(save(tmp_path, f"1 0.5 0.5 0.25 0.5\n{line}\n"))[0].images["images/train/a.png"]
    assert image.is_doubtful
    assert not image.is_absent("cat")


@pytest.mark.parametrize(
    "line",
    [
        "0.0 0.5 0.5 0.25 0.5",
        "0,0.5,0.5,0.25,0.5",
        "0, 0.5, 0.5, 0.25, 0.5",
        "0 0,5 0,5 0,25 0,5",
        "0;0.5;0.5;0.25;0.5",
        "0\t0.5\t0.5 0.25 0.5 ",
        "\ufeff0 0.5 0.5 0.25 0.5",
    ],
)
def test_lines_of_other_writers_are_read(tmp_path: Path, line: str) -> None:
    save(tmp_path, "")
    (tmp_path / "labels" / "train" / "a.txt").write_text(f"{line}\r\n1 0.5 0.5 0.25 0.5\r\n", encoding="utf-8")
    annotated, skipped = read(tmp_path)
    assert annotated.images["images/train/a.png"].boxes == {"cat": ((24, 12, 40, 36),), "dog": ((24, 12, 40, 36),)}
    assert skipped == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_files_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    save(tmp_path, "")
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n", encoding=encoding)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n", encoding=encoding)
    annotated, _ = read(tmp_path)
    assert annotated.classes == ("cat", "dog")
    assert annotated.images["images/train/a.png"].boxes == {"cat": ((24, 12, 40, 36),)}
    (tmp_path / "data.yaml").write_text("names: [\u72d7, dog]\n", encoding=encoding)
    assert read(tmp_path)[0].classes == ("dog", "\u72d7")


def test_class_names_of_another_encoding_are_a_named_error(tmp_path: Path) -> None:
    save(tmp_path, "0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_bytes("\u72d7\n".encode("gbk"))
    with pytest.raises(DataError, match=r"classes\.txt: not UTF-8 text \(byte 0\); save it as UTF-8"):
        read(tmp_path)


def test_a_label_file_of_another_encoding_is_reported_and_its_image_not_used(tmp_path: Path) -> None:
    save(tmp_path, "0 0.5 0.5 0.25 0.5\n", name="train/b")
    save(tmp_path, "")
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(b"\x80 0.5")
    annotated, skipped = read(tmp_path)
    assert set(annotated.images) == {"images/train/b.png"}
    assert skipped == [("image images/train/a.png", "a.txt: not UTF-8 text (byte 0); save it as UTF-8")]


def test_a_blank_line_in_classes_txt_is_a_number_without_a_name(tmp_path: Path) -> None:
    save(tmp_path, "2 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\n\nfox\n\n")
    annotated, skipped = read(tmp_path)
    image = annotated.images["images/train/a.png"]
    assert (image.boxes, image.is_doubtful) == ({"fox": ((24, 12, 40, 36),)}, True)
    assert skipped == [("labels/train/a.txt:2", "class 1 has no name; expected one of 0 to 2")]


def test_class_names_can_be_in_the_folder_of_the_labels(tmp_path: Path) -> None:
    save(tmp_path, "1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    assert set(read(tmp_path)[0].images["images/train/a.png"].boxes) == {"dog"}


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("names: [cat]\nkpt_shape: [3, 2]\n", "0 0.5 0.5 0.25 0.5 0.1 0.2 0.3 0.4 0.9 0.9"),
        ("names: [cat]\nkpt_shape: [1, 3]\n", "0 0.5 0.5 0.25 0.5 0.1 0.2 2"),
        ("names: [cat]\n", "0 0.5 0.5 0.25 0.5 0.1 0.2 2"),
        ("names: [cat]\n", "0 0.5 0.5 0.25 0.5 0.4 0.4 2.0 0 0 0"),
    ],
)
def test_lines_with_keypoints_are_boxes(tmp_path: Path, names: str, line: str) -> None:
    annotated, skipped = read(save(tmp_path, line + "\n", names=names))
    assert annotated.images["images/train/a.png"].boxes == {"cat": ((24, 12, 40, 36),)}
    assert skipped == []


def test_equal_lines_are_one_box_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in", "0 0.5 0.5 0.25 0.5\n" * 2)
    assert main(["build", "yolo", str(tmp_path / "in"), str(tmp_path / "d")]) == 0
    (sample,) = Store(tmp_path / "d")
    assert [item.box.xyxy for item in sample.target.items] == [(24, 12, 40, 36)]
    assert "boxes removed that repeat another one of the same class: 1" in capsys.readouterr().out


def test_hidden_folders_runs_and_other_images_are_not_read(tmp_path: Path) -> None:
    save(tmp_path, "0 0.5 0.5 0.25 0.5\n")
    for name in (
        "images/train/.ipynb_checkpoints/a-checkpoint",
        "runs/detect/images/a",
        "__MACOSX/images/._a",
        "results",
    ):
        save_image(tmp_path / f"{name}.png")
    assert set(read(tmp_path)[0].images) == {"images/train/a.png"}


def save_parts(root: Path, *, yaml: str = "") -> Path:
    """Roboflow's layout: three images in train, two of one photo; one each in valid and test."""
    for name in (
        "train/images/p_jpg.rf.1",
        "train/images/p_jpg.rf.2",
        "train/images/q",
        "valid/images/r",
        "test/images/s",
    ):
        save_image(root / f"{name}.png")
        label = root / f"{name.replace('images', 'labels')}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text(f"names: [cat]\n{yaml}")
    return root


ROBOFLOW = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"


@pytest.mark.parametrize("yaml", ["", ROBOFLOW, "path: /content/x\n" + ROBOFLOW.replace("../", "")])
def test_published_splits_are_used(tmp_path: Path, yaml: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_parts(tmp_path / "in", yaml=yaml)
    assert main(["build", "yolo", str(tmp_path / "in"), str(tmp_path / "d")]) == 0
    found = {part: [one.id for one in Store(tmp_path / "d" / part)] for part in ("train", "validation", "test")}
    assert found == {
        "train": [f"train/images/{name}.png:cat" for name in ("p_jpg.rf.1", "p_jpg.rf.2", "q")],
        "validation": ["valid/images/r.png:cat"],
        "test": ["test/images/s.png:cat"],
    }
    assert "the published splits are used: train, validation, test" in capsys.readouterr().out


def test_a_fraction_of_a_published_split_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_parts(tmp_path / "in")
    assert main(["build", "yolo", str(tmp_path / "in"), str(tmp_path / "d"), "--test-frac", "0.5"]) != 0
    assert "--test-frac 0.5: the source has a test split, which is used" in capsys.readouterr().err


def test_a_split_that_is_not_published_is_drawn_from_training(tmp_path: Path) -> None:
    root = save_parts(tmp_path / "in", yaml=ROBOFLOW.replace("test:", "#"))
    assert main(["build", "yolo", str(root), str(tmp_path / "d"), "--test-frac", "0.4"]) == 0
    assert [one.id for one in Store(tmp_path / "d" / "validation")] == ["valid/images/r.png:cat"]
    # The two copies of photo p are never in different parts.
    copies = [part for part in ("train", "test") for one in Store(tmp_path / "d" / part) if ".rf." in one.id]
    assert len(copies) == 2
    assert len(set(copies)) == 1


def test_one_split_alone_is_read_with_the_names_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = save_parts(tmp_path, yaml=ROBOFLOW)
    monkeypatch.chdir(root)
    for folder in (root / "train", root / "train" / "images", Path("train")):
        annotated, _ = read(folder)
        assert len(annotated.images) == 3
        assert annotated.classes == ("cat",)
        assert all(image.boxes == {"cat": ((24, 12, 40, 36),)} for image in annotated.images.values())
        assert annotated.published == {}


def test_splits_can_be_lists_of_images(tmp_path: Path) -> None:
    save(tmp_path, "0 0.5 0.5 0.25 0.5\n")
    save(tmp_path, "0 0.5 0.5 0.25 0.5\n", name="train/b")
    save(tmp_path, None, name="train/c", names="names: [cat, dog]\ntrain: train.txt\nval: val.txt\n")
    (tmp_path / "train.txt").write_text("data/images/train/a.png\n")
    (tmp_path / "val.txt").write_text("./images/train/b.png\n")
    assert read(tmp_path)[0].published == {"images/train/a.png": "train", "images/train/b.png": "validation"}


def test_a_split_without_labels_is_reported_and_not_used(tmp_path: Path) -> None:
    root = save_parts(tmp_path, yaml=ROBOFLOW)
    (root / "test" / "labels" / "s.txt").unlink()
    annotated, skipped = read(root)
    assert set(annotated.published.values()) == {"train", "validation"}
    assert skipped == [("split test", "its only image has no label file")]


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


@pytest.mark.parametrize(("image", "label"), [("IMG_1.PNG", "img_1.txt"), ("cafe\u0301.png", "caf\u00e9.txt")])
def test_names_of_label_files_can_differ_in_case_and_form_of_accents(tmp_path: Path, image: str, label: str) -> None:
    save(tmp_path, "1 0.5 0.5 0.25 0.5\n", name="a")
    save_image(tmp_path / "images" / image)
    (tmp_path / "labels" / label).write_text("0 0.5 0.5 0.25 0.5\n")
    annotated, skipped = read(tmp_path)
    assert annotated.images[f"images/{image}"].boxes == {"cat": ((24, 12, 40, 36),)}
    assert (skipped, annotated.notes) == ([], ())


def test_images_without_a_label_file_are_counted(tmp_path: Path) -> None:
    save(tmp_path, "1 0.5 0.5 0.25 0.5\n", name="a")
    save_image(tmp_path / "images" / "b.png")
    annotated, _ = read(tmp_path)
    assert annotated.images["images/b.png"].is_absent("dog")
    assert annotated.notes == ("images without a label file, read as images without objects: 1",)


def test_an_image_without_labels_is_not_used_if_a_label_file_has_no_image(tmp_path: Path) -> None:
    save(tmp_path, "1 0.5 0.5 0.25 0.5\n", name="a")
    save_image(tmp_path / "images" / "b_renamed.png")
    (tmp_path / "labels" / "b.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "labels" / "notes.txt").write_text("no label file\n")
    annotated, skipped = read(tmp_path)
    assert not annotated.images["images/b_renamed.png"].is_absent("dog")
    assert annotated.images["images/a.png"].is_absent("cat")
    assert skipped == [("label files", "1 have no image of their name, such as labels/b.txt")]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "real", "1 0.5 0.5 0.25 0.5\n", name="a")
    (tmp_path / "given").mkdir()
    for name in ("images", "labels", "data.yaml"):
        (tmp_path / "given" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "images" / "again").symlink_to(tmp_path / "real" / "images")
    annotated, skipped = read(tmp_path / "given")
    assert annotated.images.keys() == {"images/a.png"}
    assert skipped == []
    (tmp_path / "real" / "all").symlink_to(tmp_path / "real" / "images")
    assert read(tmp_path / "real")[0].images.keys() == {"images/a.png"}


def test_a_label_file_belongs_to_the_image_of_its_exact_name(tmp_path: Path) -> None:
    save(tmp_path, "1 0.5 0.5 0.25 0.5\n", name="a")
    save_image(tmp_path / "images" / "A.png")
    annotated, _ = read(tmp_path)
    assert annotated.images["images/A.png"].boxes == {}
    assert set(annotated.images["images/a.png"].boxes) == {"dog"}
