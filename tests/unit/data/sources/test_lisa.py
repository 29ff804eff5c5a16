"""ReasonSeg folders, valid and invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import box, save_image
from virft.cli.main import main
from virft.data.annotations import ReferringSet, Skipped
from virft.data.sources.lisa import read_lisa
from virft.data.store import Store
from virft.errors import DataError

TRIANGLE = [[10, 10], [30, 10], [20, 40]]
FAR = [[50, 5], [60, 5], [60, 8], [50, 8]]


def save(folder: Path, name: str = "a", *, image: dict[str, Any] | None = None, **changes: Any) -> Path:
    """An image of 64 x 48 with two instructions about two polygons, and one shape to ignore."""
    save_image(folder / f"{name}.jpg", **(image or {}))
    shapes = [{"label": label, "points": points} for label, points in (("target", TRIANGLE), ("target", FAR))]
    shapes.append({"label": "ignore", "points": [[0, 0], [64, 0], [64, 48]]})
    tree = {"text": ["what bites", "the animal's mouth"], "is_sentence": True, "shapes": shapes} | changes
    path = folder / f"{name}.json"
    path.write_text(json.dumps(tree))
    return path


def read(folder: Path) -> tuple[ReferringSet, list[tuple[str, str]]]:
    skipped = Skipped()
    return read_lisa(folder, skipped=skipped), skipped.records


def test_every_instruction_refers_to_all_polygons_together(tmp_path: Path) -> None:
    save(tmp_path)
    referring, skipped = read(tmp_path)
    assert [(one.name, one.text) for one in referring.expressions] == [
        ("a.jpg:0", "what bites"),
        ("a.jpg:1", "the animal's mouth"),
    ]
    for one in referring.expressions:
        assert one.box == (10, 5, 60, 40)
        assert one.polygons == ((10, 10, 30, 10, 20, 40), (50, 5, 60, 5, 60, 8, 50, 8))
        assert one.ignored == ((0, 0, 64, 0, 64, 48),)
    assert (referring.num_ignored, skipped) == (1, [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text": []}, "has no instruction; expected at least one in text"),
        ({"text": "what"}, "text is 'what'; expected a list of instructions"),
        ({"shapes": []}, "has no target polygon"),
        ({"shapes": None}, "holds no list of shapes; expected a LabelMe file"),
        ({"shapes": [{"label": "ignore", "points": TRIANGLE}]}, "has no target polygon"),
    ],
)
def test_a_file_without_an_instruction_or_a_target_is_skipped_and_reported(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    save(tmp_path, "bad", **changes)
    save(tmp_path, "good")
    referring, skipped = read(tmp_path)
    assert set(referring.images) == {"good.jpg"}
    assert skipped == [("bad.json", reason)]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ({"label": "target", "points": TRIANGLE[:2]}, "too few points"),
        ({"label": "target", "points": [[1, 2], [3]]}, "no points"),
        ({"label": "target"}, "no points"),
        ({"label": "ignore", "points": TRIANGLE[:2]}, "too few points"),
    ],
)
def test_an_invalid_shape_is_skipped_and_reported(tmp_path: Path, shape: Any, found: str) -> None:
    save(tmp_path, shapes=[{"label": "target", "points": TRIANGLE}, shape])
    referring, skipped = read(tmp_path)
    assert referring.expressions[0].box == (10, 10, 30, 40)
    assert skipped == [("a.json: shape 1", f"{found}; expected a polygon")]


def test_labels_are_taken_as_lisa_takes_them(tmp_path: Path) -> None:
    labels = ("dog", "ignore region", "Flag")
    save(
        tmp_path,
        shapes=[{"label": label, "points": points} for label, points in zip(labels, (TRIANGLE, FAR, FAR), strict=True)],
    )
    referring, skipped = read(tmp_path)
    assert referring.expressions[0].polygons == ((10, 10, 30, 10, 20, 40),)
    assert referring.expressions[0].ignored == ((50, 5, 60, 5, 60, 8, 50, 8),)
    assert skipped == []


def test_a_shape_without_a_label_is_skipped_and_reported(tmp_path: Path) -> None:
    save(tmp_path, shapes=[{"label": "target", "points": TRIANGLE}, "x"])
    assert read(tmp_path)[1] == [("a.json: shape 1", "label is None; expected a text")]


def test_a_file_that_is_not_utf8_is_cp1252(tmp_path: Path) -> None:
    path = save(tmp_path)
    tree = json.loads(path.read_text()) | {"text": ["the caf\u00e9\u2019s door"]}
    path.write_bytes(json.dumps(tree, ensure_ascii=False).encode("cp1252"))
    assert [one.text for one in read(tmp_path)[0].expressions] == ["the caf\u00e9\u2019s door"]


def test_an_empty_instruction_is_skipped_and_reported(tmp_path: Path) -> None:
    save(tmp_path, text=["what bites", " "])
    referring, skipped = read(tmp_path)
    assert [one.text for one in referring.expressions] == ["what bites"]
    assert skipped == [("a.json: text 1", "' ' is not an instruction")]


def test_missing_images_and_json_files_are_reported(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "lonely.json").write_text('{"shapes": []}')
    (tmp_path / "cut.json").write_text("{")
    _, skipped = read(tmp_path)
    assert [where for where, _ in skipped] == ["cut.json", "lonely.json"]
    assert skipped[0][1].startswith("not valid JSON")
    assert skipped[1][1] == "no image lonely.jpg (or of another format) next to it"
    with pytest.raises(DataError, match=r"holds no \.json file; expected LabelMe JSON files"):
        read_lisa(save_image(tmp_path / "p" / "a.png").parent, skipped=Skipped())


def test_strict_stops_at_the_first_fault_and_reports_it_once(tmp_path: Path) -> None:
    save(tmp_path, text=["what bites", " "])
    with pytest.raises(DataError, match=r"^a\.json: text 1: ' ' is not an instruction \(--strict;[^(]*\)$"):
        read_lisa(tmp_path, skipped=Skipped(strict=True))


def test_a_dataset_has_the_box_the_polygons_and_the_ignored_ones(tmp_path: Path) -> None:
    for name in "abcd":
        save(tmp_path / "in", name)
    argv = ["build", "lisa", str(tmp_path / "in"), str(tmp_path / "d"), "--questions", "3", "--test-frac", "0.25"]
    assert main(argv) == 0
    train, test = Store(tmp_path / "d" / "train"), Store(tmp_path / "d" / "test")
    assert (len(train), len(test)) == (3, 2)
    assert not {one.images[0].rsplit("/")[-1] for one in train} & {one.images[0].rsplit("/")[-1] for one in test}
    sample = train[0]
    assert sample.target == box(10, 5, 60, 40)
    assert sample.polygons == ((10, 10, 30, 10, 20, 40), (50, 5, 60, 5, 60, 8, 50, 8))
    assert sample.ignored == ((0, 0, 64, 0, 64, 48),)
    assert train.card["source"]["num_ignored_shapes"] == 4


def test_an_expression_outside_its_image_is_skipped_and_reported(tmp_path: Path) -> None:
    save(tmp_path / "in", shapes=[{"label": "target", "points": [[60, 10], [90, 10], [70, 40]]}])
    save(tmp_path / "in", "b")
    assert main(["build", "lisa", str(tmp_path / "in"), str(tmp_path / "d")]) == 0
    skipped = Store(tmp_path / "d").card["skipped"]
    assert [row["where"] for row in skipped] == ["a.jpg:0", "a.jpg:1"]
    assert skipped[0]["reason"].startswith("box [60, 10, 90, 40] reaches outside its image")


def test_polygons_of_stored_pixels_are_rotated_with_their_image(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6  # displayed rotated clockwise: 48 x 64
    save(tmp_path / "in", image={"exif": tags}, imageWidth=64, imageHeight=48)
    assert main(["build", "lisa", str(tmp_path / "in"), str(tmp_path / "d")]) == 0
    (sample, _) = Store(tmp_path / "d")
    assert sample.target_size == (48, 64)
    # (x, y) of the stored image is at (48 - y, x)
    assert sample.polygons[0] == (38, 10, 38, 30, 8, 20)
    assert sample.ignored[0] == (48, 0, 48, 64, 0, 64)
    assert sample.target == box(8, 10, 43, 60)
