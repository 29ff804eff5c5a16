"""LabelMe folders, valid and invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.labelme import read_labelme
from virft.data.store import Store
from virft.errors import ConfigError, DataError

CAT = {"label": "cat", "shape_type": "rectangle", "points": [[30, 40], [10, 10]]}
DOG = {"label": "dog", "shape_type": "polygon", "points": [[40, 5], [60, 5], [50, 20]]}


def save(folder: Path, *shapes: Any, name: str = "a", **changes: Any) -> Path:
    save_image(folder / f"{name}.png")
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"shapes": shapes, "imageWidth": 64, "imageHeight": 48, "imagePath": "x"} | changes))
    return path


def read(folder: Path, **options: Any) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    skipped = Skipped()
    return read_labelme(folder, skipped=skipped, **options), skipped.records


def test_corners_can_be_in_any_order_and_polygons_become_bounding_boxes(tmp_path: Path) -> None:
    save(tmp_path, CAT, DOG)
    annotated, skipped = read(tmp_path)
    assert annotated.classes == ("cat", "dog")
    assert annotated.images["a.png"].boxes == {"cat": ((10, 10, 30, 40),), "dog": ((40, 5, 60, 20),)}
    assert skipped == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape_type": "line"}, "shape_type is 'line'; expected one of rectangle, polygon"),
        ({"points": [[1, 2]]}, "points are [[1, 2]]; expected at least 2 of [x, y]"),
        ({"points": None}, "points are None; expected at least 2 of [x, y]"),
        ({"points": [[1, 2], ["3", 4]]}, "points are [[1, 2], ['3', 4]]; expected at least 2 of [x, y]"),
        ({"points": [[1, 2], [1, 9]]}, "box [1, 2, 1, 9] has x2 <= x1; expected x1 < x2"),
        ({"points": [[1, 2], [99, 9]]}, "box [1, 2, 99, 9] reaches outside its image"),
    ],
)
def test_an_invalid_shape_is_reported_and_its_class_is_not_absent(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    save(tmp_path, CAT | change, DOG)
    annotated, skipped = read(tmp_path)
    assert set(annotated.images["a.png"].boxes) == {"dog"}
    assert not annotated.images["a.png"].is_absent("cat")
    ((where, found),) = skipped
    assert where == "a.json: shape 0"
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("kind", "points", "expected"),
    [
        ("mask", [[10, 12], [30, 40]], (10, 12, 30, 40)),
        ("circle", [[30, 20], [33, 24]], (25, 15, 35, 25)),  # radius 5, by 3, 4, 5
        ("oriented_rectangle", [[20, 10], [30, 20], [20, 30], [10, 20]], (10, 10, 30, 30)),
    ],
)
def test_masks_circles_and_oriented_rectangles_have_boxes(
    tmp_path: Path, kind: str, points: list[list[int]], expected: tuple[int, ...]
) -> None:
    save(tmp_path, {"label": "cat", "shape_type": kind, "points": points})
    assert read(tmp_path)[0].images["a.png"].boxes == {"cat": (expected,)}


def test_shapes_of_one_label_and_group_are_one_object(tmp_path: Path) -> None:
    part = {**CAT, "group_id": 7}
    other = {**CAT, "points": [[50, 5], [60, 20]]}
    save(tmp_path, part, {**other, "group_id": 7}, {**DOG, "group_id": 7}, other)
    assert read(tmp_path)[0].images["a.png"].boxes == {
        "cat": ((10, 5, 60, 40), (50, 5, 60, 20)),
        "dog": ((40, 5, 60, 20),),
    }


@pytest.mark.parametrize("named", ["../images/photo.png", "..\\images\\photo.png", "D:\\old\\photo.png"])
def test_the_image_is_that_of_image_path_inside_the_folder(tmp_path: Path, named: str) -> None:
    save(tmp_path / "json", CAT, imagePath=named)
    (tmp_path / "json" / "a.png").unlink()
    save_image(tmp_path / "images" / "photo.png")
    annotated, skipped = read(tmp_path)
    assert annotated.images["images/photo.png"].boxes == {"cat": ((10, 10, 30, 40),)}
    assert skipped == []
    ((where, reason),) = read(tmp_path / "json")[1]
    assert where == "a.json"
    assert "no image" in reason or "leads out of the folder" in reason


def test_several_files_of_one_image_are_merged(tmp_path: Path) -> None:
    save(tmp_path, CAT)
    save(tmp_path, DOG, name="b", imagePath="a.png")
    annotated, skipped = read(tmp_path)
    assert set(annotated.images["a.png"].boxes) == {"cat", "dog"}
    assert skipped == []
    assert annotated.notes == ("annotation files of an image that another file annotates too, merged with it: 1",)


@pytest.mark.parametrize("shape", ["x", {"points": [[1, 2], [3, 4]]}, {"label": " "}])
def test_a_shape_without_a_label_is_reported(tmp_path: Path, shape: Any) -> None:
    save(tmp_path, shape, DOG)
    annotated, ((where, found),) = read(tmp_path)
    assert where == "a.json: shape 0"
    assert found.endswith("expected a class name")
    assert annotated.images["a.png"].is_doubtful


def test_invalid_files_are_skipped_and_reported(tmp_path: Path) -> None:
    save(tmp_path, CAT)
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe{")
    (tmp_path / "d.json").write_text('{"shapes": []}')
    annotated, skipped = read(tmp_path)
    assert set(annotated.images) == {"a.png"}
    assert [where for where, _ in skipped] == ["b.json", "c.json", "d.json"]
    with pytest.raises(DataError, match=r"holds no \.json file; expected LabelMe JSON files next to their images"):
        read(save_image(tmp_path / "p" / "a.png").parent)
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "nowhere")


def test_unknown_class_is_reported_with_the_closest_name(tmp_path: Path) -> None:
    save(tmp_path, CAT)
    with pytest.raises(ConfigError, match=r"class 'cst' is not in .*; did you mean 'cat'\?"):
        read(tmp_path, classes=["cst"])


def test_the_command_builds_a_dataset_with_absent_classes(tmp_path: Path) -> None:
    save(tmp_path / "in", CAT)
    save(tmp_path / "in", DOG, name="b")
    assert main(["build", "labelme", str(tmp_path / "in"), str(tmp_path / "d"), "--negatives-frac", "0.5"]) == 0
    assert [one.id for one in Store(tmp_path / "d")] == ["a.png:cat", "a.png:dog", "b.png:cat", "b.png:dog"]
