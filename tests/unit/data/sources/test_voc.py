"""Pascal VOC folders, valid and invalid."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.voc import read_voc
from virft.data.store import Store

SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def thing(name: str, *numbers: float | str, more: str = "") -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{number}</{key}>" for key, number in zip(keys, numbers, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def save(root: Path, *objects: str, name: str = "a", head: str = SIZE) -> Path:
    """``Annotations/NAME.xml`` and ``JPEGImages/NAME.png`` of 64 x 48."""
    save_image(root / "JPEGImages" / f"{name}.png")
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation><filename>{name}.png</filename>{head}{''.join(objects)}</annotation>")
    return path.parent


def read(folder: Path) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    skipped = Skipped()
    return read_voc(folder, skipped=skipped), skipped.records


def test_pixels_are_counted_from_one_and_the_last_is_included(tmp_path: Path) -> None:
    annotated, skipped = read(save(tmp_path, thing("cat", 1, 1, 64, 48), thing("cat", 11, 11, 30, 40)))
    (image,) = annotated.images.values()
    assert image.boxes == {"cat": ((0, 0, 64, 48), (10, 10, 30, 40))}
    assert image.name == "JPEGImages/a.png"
    assert skipped == []


def test_difficult_objects_make_their_class_doubtful(tmp_path: Path) -> None:
    difficult = thing("cat", 11, 11, 30, 40, more="<difficult>1</difficult>")
    annotated, _ = read(save(tmp_path, difficult, thing("cat", 1, 1, 9, 9), thing("dog", 1, 1, 9, 9)))
    (image,) = annotated.images.values()
    assert set(image.boxes) == {"dog"}
    assert not image.is_absent("cat")
    assert annotated.num_crowd == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (thing("", 1, 1, 2, 2), "has no name"),
        (thing("cat", 1, 1, 2), "bndbox does not have four numbers"),
        (thing("cat", 1, 1, "x", 2), "bndbox does not have four numbers"),
        (thing("cat", 9, 1, 8, 2), "box [8, 0, 8, 2] has x2 <= x1; expected x1 < x2 in pixels of the original image"),
        (thing("cat", 9, 1, 99, 2), "box [8, 0, 99, 2] reaches outside its image; expected it inside [0, 0, 64, 48]"),
    ],
)
def test_an_invalid_object_is_skipped_and_reported(tmp_path: Path, row: str, reason: str) -> None:
    annotated, skipped = read(save(tmp_path, row, thing("dog", 1, 1, 9, 9)))
    assert annotated.images["JPEGImages/a.png"].boxes == {"dog": ((0, 0, 9, 9),)}
    assert skipped == [("a.xml: object 0", reason)]


def test_invalid_files_are_skipped_and_reported(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("dog", 1, 1, 9, 9))
    (folder / "b.xml").write_text("<annotation>")
    (folder / "c.xml").write_text("<html/>")
    (folder / "d.xml").write_text("<annotation/>")
    (folder / "e.xml").write_text("<annotation><filename>e.png</filename></annotation>")
    (folder / "f.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    annotated, skipped = read(folder)
    assert set(annotated.images) == {"JPEGImages/a.png"}
    assert [where for where, _ in skipped] == ["b.xml", "c.xml", "d.xml", "e.xml", "f.xml"]
    reasons = [reason.split(" (")[0] for _, reason in skipped]
    assert reasons[:3] == [
        "not valid XML",
        "holds <html>; expected <annotation>",
        "names no image; expected <filename>",
    ]
    assert reasons[3].startswith("no image e.png; expected it in ../JPEGImages")
    assert reasons[4] == "image JPEGImages/a.png is annotated by an earlier file"


def test_the_command_builds_a_dataset_from_the_root_or_from_annotations(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", thing("cat", 1, 1, 9, 9))
    for number, place in enumerate((folder, folder.parent)):
        assert main(["build", "voc", str(place), str(tmp_path / f"d{number}")]) == 0
        assert [one.id for one in Store(tmp_path / f"d{number}")] == ["JPEGImages/a.png:cat"]
