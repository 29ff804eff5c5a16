"""Referring expressions as JSON, in both formats."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factories import box, save_image
from virft.cli.main import main
from virft.data.annotations import ReferringSet, Skipped
from virft.data.images import load_image
from virft.data.sources.refcoco import read_refcoco
from virft.data.store import Store
from virft.errors import ConfigError, DataError
from virft.geometry.masks import mask_to_rle, target_mask

ONE = {"image": "a.png", "expression": "the left one", "bbox": [10, 10, 20, 30]}


def save(folder: Path, tree: Any) -> Path:
    for name in ("a.png", "b.png"):
        save_image(folder / "images" / name)
    path = folder / "refs.json"
    path.write_text(json.dumps(tree))
    return path


def read(path: Path, **options: Any) -> tuple[ReferringSet, list[tuple[str, str]]]:
    skipped = Skipped()
    return read_refcoco(path, path.parent / "images", skipped=skipped, **options), skipped.records


def test_a_record_can_have_one_expression_or_several(tmp_path: Path) -> None:
    several = {"file_name": "b.png", "sentences": [{"sent": "the right one"}, "the small one"], "bbox": [0, 0, 5, 5]}
    referring, skipped = read(save(tmp_path, [ONE, several]))
    assert [(one.image, one.text, one.box) for one in referring.expressions] == [
        ("a.png", "the left one", (10, 10, 30, 40)),
        ("b.png", "the right one", (0, 0, 5, 5)),
        ("b.png", "the small one", (0, 0, 5, 5)),
    ]
    assert len({one.name for one in referring.expressions}) == 3
    assert skipped == []


def test_boxes_can_be_corners(tmp_path: Path) -> None:
    referring, _ = read(save(tmp_path, [ONE | {"bbox": [10, 10, 20, 30]}]), box_format="xyxy")
    assert referring.expressions[0].box == (10, 10, 20, 30)


def test_a_coco_file_with_captions(tmp_path: Path) -> None:
    tree = {
        "images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 48, "caption": "the left one"}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [10, 10, 20, 30]}, {"id": 2, "image_id": 8, "bbox": [1] * 4}],
    }
    referring, skipped = read(save(tmp_path, tree))
    assert [(one.text, one.box) for one in referring.expressions] == [("the left one", (10, 10, 30, 40))]
    assert referring.images["a.png"].declared == (64, 48)
    assert [where for where, _ in skipped] == ["refs.json: record 1"]


OUTLINE = [10, 10, 30, 10, 20, 40]
RIGHT_HALF = {"size": [48, 64], "counts": [32 * 48, 32 * 48]}


def test_both_formats_have_masks(tmp_path: Path) -> None:
    other = ONE | {"image": "b.png", "segmentation": RIGHT_HALF}
    referring, skipped = read(
        save(tmp_path, [ONE | {"segmentation": [OUTLINE]}, other, ONE, ONE | {"segmentation": []}])
    )
    assert [(one.polygons, one.rle) for one in referring.expressions] == [
        ((tuple(OUTLINE),), None),
        ((), RIGHT_HALF),
        ((), None),
        ((), None),
    ]
    tree = {
        "images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 48, "caption": "the left one"}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [10, 10, 20, 30], "segmentation": [OUTLINE]}],
    }
    assert read(save(tmp_path, tree))[0].expressions[0].polygons == (tuple(OUTLINE),)
    assert skipped == []


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (3, "polygons is 3; expected a list"),
        ([[1, 2, "3"]], "polygon [1, 2, '3'] is not [x1, y1, x2, y2, ..] of at least three points"),
        ([[1, 2, 3, 4]], "polygon [1, 2, 3, 4] is not [x1, y1, x2, y2, ..] of at least three points"),
        ([[1, 2, 3, 4, 5, 1e9]], "polygon [1, 2, 3, 4, 5, 1e+09] reaches far outside its image of [0, 0, 64, 48]"),
        ({"counts": "3"}, "rle {'counts': '3'} is not an object of size and counts"),
        ({"size": [64, 48], "counts": [64 * 48]}, "rle has the size [64, 48]; expected [48, 64], height and width of"),
        ({"size": [48, 64], "counts": [1]}, "rle: run lengths [1] are not a mask of 64x48 pixels"),
    ],
)
def test_a_record_with_an_invalid_mask_is_used_without_it_and_reported(
    tmp_path: Path, segmentation: Any, reason: str
) -> None:
    path = save(tmp_path, [ONE | {"segmentation": segmentation}])
    assert main(["build", "refcoco", str(path), str(tmp_path / "images"), str(tmp_path / "d")]) == 0
    store = Store(tmp_path / "d")
    (sample,) = store
    assert (sample.target, sample.polygons, sample.rle) == (box(10, 10, 30, 40), (), None)
    (skipped,) = store.card["skipped"]
    assert skipped["reason"].startswith(reason)
    assert skipped["reason"].endswith("; used without its mask")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_run_lengths_of_stored_pixels_are_rotated_with_their_image(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(0).random((48, 64)) < 0.5
    tags = Image.Exif()
    tags[0x0112] = orientation
    shape = {"size": [48, 64], "counts": mask_to_rle(pixels)}
    path = save(tmp_path, [ONE | {"image": "c.png", "width": 64, "height": 48, "segmentation": shape}])
    raw = Image.fromarray(pixels.astype(np.uint8) * 255)
    raw.save(tmp_path / "images" / "c.png", exif=tags)
    assert main(["build", "refcoco", str(path), str(tmp_path / "images"), str(tmp_path / "d")]) == 0
    (sample,) = Store(tmp_path / "d")
    # if the declared size fits the stored and the upright image, boxes refer to the upright one
    upright = pixels if orientation < 5 else np.asarray(load_image(sample.images[0]))[..., 0] > 127
    assert (target_mask(sample) == upright).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": None}, "image is None; expected a path inside the folder of the images"),
        ({"image": "../a.png"}, "image ../a.png leads out of the folder of the images"),
        ({"expression": " "}, "expression is ' '; expected a text, or a list of them"),
        ({"sentences": []}, "expression is []; expected a text, or a list of them"),
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]; expected four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox is [1, 2, 3, '4']; expected four numbers"),
    ],
)
def test_an_invalid_record_is_skipped_and_reported(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    referring, skipped = read(save(tmp_path, [ONE, ONE | change, "x"]))
    assert len(referring.expressions) == 1
    assert skipped == [("refs.json: record 1", reason), ("refs.json: record 2", "'x' is not an object")]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": 1}, "holds neither a list of records nor images and annotations"),
        ([], "no expression came out of it$"),
        ([{}], r"no expression came out of it \(first of 1 skipped: refs\.json: record 0: image is None"),
    ],
)
def test_a_file_without_expressions_is_refused(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(save(tmp_path, tree))


def test_the_command_builds_grounding_questions(tmp_path: Path) -> None:
    outside = ONE | {"image": "b.png", "bbox": [60, 10, 20, 30]}
    path = save(tmp_path, [ONE, outside])
    assert main(["build", "refcoco", str(path), str(tmp_path / "images"), str(tmp_path / "d")]) == 0
    store = Store(tmp_path / "d")
    (sample,) = store
    assert (sample.query, sample.target) == ("the left one", box(10, 10, 30, 40))
    (skipped,) = store.card["skipped"]
    assert skipped["where"] == "b.png:1.0"


def test_a_box_a_few_pixels_outside_is_clipped_and_counted(tmp_path: Path) -> None:
    fractions = ONE | {"bbox": [0.1, 0.2, 0.9, 0.95]}
    path = save(tmp_path, [ONE | {"bbox": [-3, 10, 20, 30]}, fractions])
    assert main(["build", "refcoco", str(path), str(tmp_path / "images"), str(tmp_path / "d")]) == 0
    store = Store(tmp_path / "d")
    assert [sample.target for sample in store] == [box(0, 10, 17, 40)]
    assert store.card["source"]["num_clipped_boxes"] == 1
    assert "its numbers are fractions of width and height" in store.card["skipped"][0]["reason"]


def save_refs(folder: Path) -> Path:
    """RefCOCO's own records, whose boxes are in instances.json."""
    refs = [
        {"ref_id": 1, "ann_id": 5, "file_name": "a_5.png", "split": "train", "sentences": [{"sent": "<image>left"}]},
        {"ref_id": 2, "ann_id": 6, "file_name": "b_6.png", "split": "val", "sentences": [{"sent": "right"}]},
        {"ref_id": 3, "ann_id": 9, "file_name": "b_9.png", "split": "val", "sentences": [{"sent": "none"}]},
    ]
    polygon = [[10, 10, 30, 10, 20, 40]]
    instances = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in "ab"],
        "annotations": [
            {"id": 5, "image_id": "a", "bbox": [10, 10, 20, 30], "segmentation": polygon},
            {"id": 6, "image_id": "b", "bbox": [0, 0, 5, 5]},
        ],
    }
    path = save(folder, refs)
    (folder / "instances.json").write_text(json.dumps(instances))
    return path


@pytest.mark.parametrize("box_format", ["xywh", "xyxy"])
def test_records_of_refcoco_have_their_boxes_in_instances(tmp_path: Path, box_format: Any) -> None:
    path = save_refs(tmp_path)
    referring, skipped = read(path, instances=tmp_path / "instances.json", box_format=box_format)
    assert [(one.image, one.text, one.box) for one in referring.expressions] == [
        ("a.png", "left", (10, 10, 30, 40)),
        ("b.png", "right", (0, 0, 5, 5)),
    ]
    assert referring.expressions[0].polygons == ((10, 10, 30, 10, 20, 40),)
    assert skipped == [("refs.json: record 2", "ann_id 9 is not in instances.json")]
    val, _ = read(path, instances=tmp_path / "instances.json", split="val")
    assert [one.text for one in val.expressions] == ["right"]
    with pytest.raises(ConfigError, match="no record is of split testA; it has train, val"):
        read(path, instances=tmp_path / "instances.json", split="testA")


def test_without_instances_the_message_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has an ann_id and no bbox; expected --instances instances\.json"):
        read(save_refs(tmp_path))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([{"ref_id": 1}], protocol=protocol))
    with pytest.raises(DataError, match=r"a pickle, .* convert it once: python -c .* --instances instances\.json"):
        read(path)


def test_the_command_builds_one_split(tmp_path: Path) -> None:
    path = save_refs(tmp_path)
    options = ["--instances", str(tmp_path / "instances.json"), "--ref-split", "train"]
    assert main(["build", "refcoco", str(path), str(tmp_path / "images"), str(tmp_path / "d"), *options]) == 0
    assert [one.query for one in Store(tmp_path / "d")] == ["left"]
