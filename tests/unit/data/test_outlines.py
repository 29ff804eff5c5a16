"""Outlines in targets of pointing and detection: COCO, LabelMe, YOLO, EXIF orientations and invalid polygons."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import edit_json, save_coco, save_image
from runs import virft
from virft.data.store import Store
from virft.errors import DataError
from virft.tasks import TASKS
from virft.types import Box, ImageSize, LabelledDetections, Points, Sample

L_SHAPE = [10, 10, 30, 10, 30, 15, 15, 15, 15, 40, 10, 40]
"""Outline of a box [10, 10, 30, 40] whose centre is outside of it."""
EDGE = [10, 10, 30, 10, 30, 40, 10, 40]


def coco(tmp_path: Path, segmentations: list[Any], *options: object) -> Points:
    """The target of a COCO file with one box [10, 10, 30, 40] of a cat for each segmentation, on one image."""
    boxes = [("cat", [10 + place, 10, 20, 30]) for place in range(len(segmentations))]
    path = save_coco(tmp_path, {"a.png": boxes}, categories=("cat",))

    def add(tree: dict[str, Any]) -> None:
        for annotation, segmentation in zip(tree["annotations"], segmentations, strict=True):
            annotation["segmentation"] = segmentation

    edit_json(path, add)
    command = ("build", "coco", path, tmp_path / "images", tmp_path / "data", "--task", "pointing", *options)
    assert virft(*command) == 0
    (one,) = Store(tmp_path / "data")
    assert isinstance(one.target, Points)
    return one.target


def test_a_point_must_be_inside_the_polygon_of_a_coco_file(tmp_path: Path) -> None:
    target = coco(tmp_path, [[L_SHAPE]])
    assert target.outlines == ((tuple(map(float, L_SHAPE)),),)
    assert target.items != ((20.0, 25.0),)  # the centre of the box, which is not on the object


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], [EDGE], {"size": [48, 64], "counts": [0, 3072]}, [[1, 2]], ["x"], "x", [[float("nan")] * 6],
        [[50, 0, 60, 0, 60, 5]], [[0, 0, 1e9, 0, 0, 1e9]],
    ],
)  # fmt: skip
def test_without_a_usable_polygon_the_box_is_the_target(tmp_path: Path, segmentation: Any) -> None:
    assert coco(tmp_path, [segmentation]).outlines == ()


def test_objects_without_a_polygon_have_an_empty_list(tmp_path: Path) -> None:
    target = coco(tmp_path, [[], [L_SHAPE, EDGE]])
    assert [len(polygons) for polygons in target.outlines] == [0, 2]
    assert target.objects == (Box(x1=10, y1=10, x2=30, y2=40), Box(x1=11, y1=10, x2=31, y2=40))


def test_detection_is_built_without_outlines_by_default(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [10, 10, 20, 30])]}, categories=("cat",))
    edit_json(path, lambda tree: tree["annotations"][0].update(segmentation=[L_SHAPE]))
    assert virft("build", "coco", path, tmp_path / "images", tmp_path / "data") == 0
    assert "outlines" not in (tmp_path / "data" / "samples.jsonl").read_text()


def test_polygons_are_turned_with_their_image(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.jpg": [("cat", [10, 10, 20, 30])]}, categories=("cat",))
    edit_json(path, lambda tree: tree["annotations"][0].update(segmentation=[L_SHAPE]))
    image = tmp_path / "images" / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    with Image.open(image) as stored:
        stored.copy().save(image, exif=exif)
    command = ("build", "coco", path, tmp_path / "images", tmp_path / "data", "--task", "pointing", "--exif", "raw")
    assert virft(*command) == 0
    (one,) = Store(tmp_path / "data")
    assert isinstance(one.target, Points)
    assert one.target.objects == (Box(x1=8, y1=10, x2=38, y2=30),)  # x = 48 - y, y = x
    assert one.target.outlines[0][0][:4] == (38.0, 10.0, 38.0, 30.0)


def test_polygons_of_labelme_are_targets(tmp_path: Path) -> None:
    points = [list(pair) for pair in zip(L_SHAPE[::2], L_SHAPE[1::2], strict=True)]
    shapes = [
        {"label": "cat", "shape_type": "polygon", "points": points},
        {"label": "cat", "shape_type": "rectangle", "points": [[40, 5], [50, 15]]},
        {"label": "dog", "shape_type": "rectangle", "points": [[40, 5], [50, 15]]},
        {"label": "hen", "shape_type": "polygon", "points": points, "group_id": 1},
        {"label": "hen", "shape_type": "rectangle", "points": [[60, 45], [50, 35]], "group_id": 1},
        {"label": "owl", "shape_type": "polygon", "points": points, "group_id": 1},
        {"label": "owl", "shape_type": "circle", "points": [[50, 30], [50, 35]], "group_id": 1},
    ]
    save_image(tmp_path / "in" / "a.png")
    tree = {"imagePath": "a.png", "imageWidth": 64, "imageHeight": 48, "shapes": shapes}
    (tmp_path / "in" / "a.json").write_text(json.dumps(tree))
    assert virft("build", "labelme", tmp_path / "in", tmp_path / "data", "--task", "pointing") == 0
    found = {one.query: one.target.outlines for one in Store(tmp_path / "data")}  # type: ignore[attr-defined]
    whole = tuple(map(float, L_SHAPE))
    assert found == {
        "cat": ((whole,), ()),
        "dog": (),
        "hen": ((whole, (50.0, 35.0, 60.0, 35.0, 60.0, 45.0, 50.0, 45.0)),),
        "owl": (),  # a circle has no polygon
    }


def test_outlines_of_yolo_are_targets(tmp_path: Path) -> None:
    save_image(tmp_path / "in" / "images" / "a.png", (100, 50))
    (tmp_path / "in" / "labels").mkdir()
    (tmp_path / "in" / "labels" / "a.txt").write_text("0 0.1 0.2 0.3 0.2 0.1 0.8\n0 0.7 0.5 0.2 0.2\n")
    (tmp_path / "in" / "data.yaml").write_text("names: [cat]\n")
    assert virft("build", "yolo", tmp_path / "in", tmp_path / "data", "--task", "pointing") == 0
    (one,) = Store(tmp_path / "data")
    assert one.target.outlines == (((10.0, 10.0, 30.0, 10.0, 10.0, 40.0),), ())  # type: ignore[attr-defined]


# --- detection, on request ---


def built(tmp_path: Path, *options: object) -> list[Sample]:
    """Samples of detection from one image with two cats and a dog; the first cat and the dog have an outline."""
    boxes = [("cat", [10, 10, 20, 30]), ("cat", [32, 10, 20, 30]), ("dog", [1, 1, 8, 8])]
    path = save_coco(tmp_path, {"a.png": boxes}, categories=("cat", "dog"))

    def add(tree: dict[str, Any]) -> None:
        for annotation, segmentation in zip(tree["annotations"], ([L_SHAPE], [], [[1, 1, 9, 1, 9, 9]]), strict=True):
            annotation["segmentation"] = segmentation

    edit_json(path, add)
    assert virft("build", "coco", path, tmp_path / "images", tmp_path / "data", "--outlines", *options) == 0
    return list(Store(tmp_path / "data"))


def test_outlines_of_detection_are_stored_on_request(tmp_path: Path) -> None:
    cat, dog = built(tmp_path)
    assert cat.outlines == ((tuple(map(float, L_SHAPE)),), ())
    assert not cat.has_mask, "one of the two cats has no outline"
    assert dog.outlines == (((1.0, 1.0, 9.0, 1.0, 9.0, 9.0),),)
    assert dog.has_mask


def test_outlines_of_several_classes_are_in_the_order_of_the_boxes(tmp_path: Path) -> None:
    (one,) = built(tmp_path, "--per-image")
    assert isinstance(one.target, LabelledDetections)
    by_label = list(zip([item.label for item in one.target.items], one.outlines, strict=True))
    assert [(label, len(outlines)) for label, outlines in by_label] == [("cat", 1), ("cat", 0), ("dog", 1)]
    assert not one.has_mask


def test_a_task_without_outlines_refuses_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [10, 10, 20, 30])]}, categories=("cat",))
    command = ("build", "coco", path, tmp_path / "images", tmp_path / "data", "--outlines", "--task", "counting")
    assert virft(*command) == 2
    assert "--outlines has no effect: targets of counting have no outlines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outlines", "message"),
    [
        ([[[1, 1, 9, 1, 9, 9]]], "1 outlines of 2 objects; expected a list for each, or none at all"),
        ([[[1, 1, 9, 1]], []], "polygon [1, 1, 9, 1] is not [x1, y1, x2, y2, ..] of at least three points"),
        ([[[40, 40, 50, 40, 50, 47]], []], "the outlines of object [10.0, 10.0, 30.0, 40.0] are outside of its box"),
        ("x", "target.outlines is 'x'; expected a list"),
    ],
)
@pytest.mark.parametrize("task", ["detection", "multiclass_detection"])
def test_invalid_outlines_of_a_dataset_are_reported(tmp_path: Path, task: str, outlines: Any, message: str) -> None:
    boxes = [[10, 10, 30, 40], [40, 5, 60, 30]]
    target: dict[str, Any] = {"boxes": boxes}
    if task == "multiclass_detection":
        target = {"classes": ["cat"], "labelled_boxes": [{"box": box, "label": "cat"} for box in boxes]}
    with pytest.raises(DataError, match=re.escape(f"here: {message}")):
        TASKS[task].parse_target(target | {"outlines": outlines}, ImageSize(64, 48), where="here")


def test_repeated_boxes_of_rows_are_removed_with_their_outlines(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png")
    target = {
        "boxes": [[1, 1, 9, 9], [1, 1, 9, 9], [10, 10, 30, 40]],
        "outlines": [[[1, 1, 9, 1, 9, 9]], [], [L_SHAPE]],
    }
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"image": "a.png", "query": "cat", "target": target}]))
    assert virft("build", "rows", rows, tmp_path / "images", tmp_path / "data") == 0
    (one,) = Store(tmp_path / "data")
    assert one.outlines == (((1.0, 1.0, 9.0, 1.0, 9.0, 9.0),), (tuple(map(float, L_SHAPE)),))
