"""COCO files, valid and invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factories import edit_json, save_coco
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.coco import open_coco, read_coco
from virft.errors import ConfigError, DataError

TWO = {"a.png": [("cat", [10, 10, 20, 30]), ("cat", [1, 2, 3, 4])], "b.png": [("dog", [0, 0, 64, 48])]}


def read(path: Path, images: Path | None = None, **options: Any) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    skipped = Skipped(strict=options.pop("strict", False))
    return read_coco(open_coco(path), images or path.parent / "images", skipped=skipped, **options), skipped.records


def test_boxes_are_corners_by_image_and_class(tmp_path: Path) -> None:
    annotated, skipped = read(save_coco(tmp_path, TWO))
    assert annotated.classes == ("cat", "dog")
    assert annotated.images["a.png"].boxes == {"cat": ((10.0, 10.0, 30.0, 40.0), (1.0, 2.0, 4.0, 6.0))}
    assert annotated.images["b.png"].boxes == {"dog": ((0.0, 0.0, 64.0, 48.0),)}
    assert skipped == []


def test_only_chosen_classes_are_read(tmp_path: Path) -> None:
    annotated, _ = read(save_coco(tmp_path, TWO), classes=["dog"])
    assert annotated.classes == ("dog",)
    assert annotated.images["a.png"].boxes == {}


def test_unknown_class_is_reported_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"class 'dgo' is not in annotations\.json; did you mean 'dog'\?"):
        read(save_coco(tmp_path, TWO), classes=["dgo"])
    with pytest.raises(ConfigError, match=r"class 'zebra' is not in annotations\.json; it has cat, dog"):
        read(save_coco(tmp_path, TWO), classes=["zebra"])


def test_crowd_is_counted_and_makes_its_class_doubtful(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["annotations"][2].update(iscrowd=1))
    annotated, skipped = read(path)
    assert annotated.num_crowd == 1
    assert annotated.images["b.png"].boxes == {}
    assert annotated.images["b.png"].doubtful == {"dog"}
    assert skipped == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [10, 10, 0, 30]}, "box [10, 10, 10, 40] has x2 <= x1; expected x1 < x2 in pixels of the original"),
        ({"bbox": [10, 10, 20, -1]}, "box [10, 10, 30, 9] has y2 <= y1; expected y1 < y2 in pixels of the original"),
        ({"bbox": [50, 10, 16, 20]}, "box [50, 10, 66, 30] reaches outside its image; expected it inside [0, 0, 64"),
        ({"bbox": [10, 10, 1e400, 1]}, "box [10, 10, inf, 11] has a number that is not finite"),
        ({"bbox": [10, 10, 20]}, "bbox is [10, 10, 20]; expected [x, y, width, height]"),
        ({"bbox": None}, "bbox is None; expected [x, y, width, height]"),
        ({"bbox": ["1", 2, 3, 4]}, "bbox is ['1', 2, 3, 4]; expected [x, y, width, height]"),
        ({"category_id": 9}, "category_id 9 is not among the categories"),
        ({"category_id": "1"}, "category_id is '1'; expected an integer"),
        ({"image_id": None}, "image_id is None; expected an integer"),
        ({"id": 2}, "the id was used before; expected every id once"),
    ],
)
def test_an_invalid_annotation_is_skipped_and_reported(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["annotations"][2].update(change))
    annotated, skipped = read(path)
    assert annotated.images["b.png"].boxes == {}
    assert len(skipped) == 1
    where, found = skipped[0]
    assert where.startswith(f"annotations.json: annotation {change.get('id', 3)}")
    assert found.startswith(reason)
    with pytest.raises(DataError, match=r"^annotations\.json: annotation .*--strict"):
        read(path, strict=True)


def test_class_with_an_invalid_box_is_not_queried_as_absent(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["annotations"][2].update(bbox=[0, 0, 0, 0]))
    annotated, _ = read(path)
    assert annotated.images["b.png"].doubtful == {"dog"}


def test_a_box_a_pixel_outside_is_accepted(tmp_path: Path) -> None:
    annotated, skipped = read(save_coco(tmp_path, {"a.png": [("cat", [-0.5, 0, 65.4, 48.9])]}))
    assert annotated.images["a.png"].boxes["cat"] == ((-0.5, 0.0, 64.9, 48.9),)
    assert skipped == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": "64"}, "width is '64'; expected an integer"),
        ({"height": 0}, "its size is 64x0; expected at least 1x1"),
        ({"id": 1}, "the id was used before; expected every id once"),
        ({"file_name": ""}, "file_name is ''; expected the name of a file"),
        ({"file_name": None}, "file_name is None; expected the name of a file"),
        ({"file_name": "a.png"}, "file a.png was used by image 1; expected every file once"),
    ],
)
def test_invalid_image_record_is_skipped_and_reported(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["images"][1].update(change))
    annotated, skipped = read(path)
    assert list(annotated.images) == ["a.png"]
    assert skipped == [(f"annotations.json: image {change.get('id', 2)}", reason)]


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_record_that_is_not_an_object_is_skipped(tmp_path: Path, key: str) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree[key].append("?"))
    annotated, skipped = read(path)
    assert len(annotated.images) == 2
    assert len(skipped) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"annotations\.json: not valid JSON"),
        ("[]", r"annotations\.json: images is missing; expected a COCO file with images, annotations and categories"),
        ('{"images": []}', r"annotations\.json: images is empty; expected a COCO file"),
        ('{"images": {}}', r"annotations\.json: images is a dict; expected a COCO file"),
        ('{"images": 3}', r"annotations\.json: images is an int; expected a COCO file"),
        ('{"images": [1], "annotations": [1]}', r"annotations\.json: categories is missing"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_coco(path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file"):
        open_coco(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(DataError, match=r"binary\.json: not valid JSON"):
        open_coco(tmp_path / "binary.json")


def test_names_are_relative_to_the_common_folder(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"val/x/a.png": [("cat", [1, 1, 5, 5])], "val/y/a.png": [("dog", [1, 1, 5, 5])]})
    annotated, _ = read(path)
    assert sorted(annotated.images) == ["x/a.png", "y/a.png"]
    assert annotated.images["x/a.png"].file == tmp_path / "images" / "val" / "x" / "a.png"


def test_images_are_also_found_without_their_folders(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [1, 1, 5, 5])]})
    edit_json(path, lambda tree: tree["images"][0].update(file_name="val2017/a.png"))
    annotated, _ = read(path)
    assert annotated.images["a.png"].file == tmp_path / "images" / "a.png"


@pytest.mark.parametrize("name", ["/home/me/a.png", "../../a.png", "C:\\me\\a.png", "sub\\a.png"])
def test_names_never_lead_out_of_the_image_folder(tmp_path: Path, name: str) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [1, 1, 5, 5])]})
    edit_json(path, lambda tree: tree["images"][0].update(file_name=name))
    annotated, _ = read(path)
    assert annotated.images["a.png"].file == tmp_path / "images" / "a.png"


def test_a_sum_of_decimals_is_rounded(tmp_path: Path) -> None:
    # 0.1 + 0.2 = 0.30000000000000004
    annotated, _ = read(save_coco(tmp_path, {"a.png": [("cat", [0.1, 0.1, 0.2, 0.2])]}))
    assert json.dumps(annotated.images["a.png"].boxes["cat"]) == "[[0.1, 0.1, 0.3, 0.3]]"
