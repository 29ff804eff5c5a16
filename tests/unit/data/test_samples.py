"""Lines of samples.jsonl: round trip, and messages with file and line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import box, detections, sample
from virft.data.samples import sample_from_line, sample_to_line
from virft.errors import DataError
from virft.geometry.masks import mask_to_rle
from virft.text.records import box_fault
from virft.types import ImageSize, Label, Sample

WHERE = "coco8/samples.jsonl:17"
EMPTY = mask_to_rle(np.zeros((48, 64)))


def record(**changes: Any) -> dict[str, Any]:
    return json.loads(sample_to_line(sample())) | changes


def message_of(line: str) -> str:
    with pytest.raises(DataError) as caught:
        sample_from_line(line, where=WHERE)
    return str(caught.value)


@pytest.mark.parametrize(
    "one",
    [
        sample(),
        sample(detections()),
        sample(Label(text="cat"), task="classification"),
        sample(Label(text="cat", aliases=("tom", "kitty")), task="classification", question="Who?"),
        sample(box(1.25, 2.5, 3, 4), task="grounding", query="the fox left of the hen"),
        sample(box(1, 2, 30, 40), task="grounding", polygons=((1, 2, 30, 2, 30, 40.5), (-5, 0, 9, 0, 9, 9))),
        sample(box(1, 2, 30, 40), task="grounding", rle=EMPTY, ignored=((0, 0, 9, 0, 9, 9),)),
        sample(Label(text="cat"), task="classification", region=box(1, 2.5, 30, 40)),
        sample(query="猫 \u00a0 \u2028 ü"),
        sample(query="half a pair \udc80"),
    ],
)
def test_a_written_sample_is_read_back(one: Sample) -> None:
    line = sample_to_line(one)
    assert "\n" not in line
    line.encode("utf-8")
    assert sample_from_line(line, where=WHERE) == one


def test_several_images_keep_the_target_image() -> None:
    pair = Sample(
        id="pair",
        task="grounding",
        images=("images/a.png", "images/b.png"),
        image_sizes=(ImageSize(10, 10), ImageSize(90, 90)),
        query="the odd one",
        target=box(50, 50, 80, 80),
        target_image=1,
    )
    assert sample_from_line(sample_to_line(pair), where=WHERE) == pair


def test_a_box_with_swapped_corners_is_reported() -> None:
    assert message_of(json.dumps(record(target={"boxes": [[40, 10, 30, 50]]}))) == (
        "coco8/samples.jsonl:17: box [40, 10, 30, 50] has x2 <= x1; expected x1 < x2 in pixels of the original image"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region": [1, 9, 5, 9]}, "region: box [1, 9, 5, 9] has y2 <= y1; expected y1 < y2 in pixels"),
        ({"region": None}, "region: box None is not four numbers; expected [x1, y1, x2, y2]"),
        ({"target": {"boxes": [[1, 9, 5, 9]]}}, "box [1, 9, 5, 9] has y2 <= y1; expected y1 < y2 in pixels"),
        ({"target": {"boxes": [[1, 1, 71, 9]]}}, "box [1, 1, 71, 9] reaches outside its image; expected it inside "),
        ({"target": {"boxes": [[-4, 1, 3, 9]]}}, "box [-4, 1, 3, 9] reaches outside its image; expected it inside "),
        (
            {"target": {"boxes": [[0.1, 0.2, 1, 1]]}},
            "box [0.1, 0.2, 1, 1] is one pixel or less at the top left, so it",
        ),
        ({"target": {"boxes": [[64.5, 1, 64.9, 9]]}}, "box [64.5, 1, 64.9, 9] lies outside its image of [0, 0, 64"),
        ({"target": {"boxes": [[1, 1, 6]]}}, "box [1, 1, 6] is not four numbers; expected [x1, y1, x2, y2]"),
        ({"target": {"boxes": [[1, 1, 6, "9"]]}}, "box [1, 1, 6, '9'] is not four numbers"),
        ({"target": {"boxes": [[1, 1, 6, True]]}}, "box [1, 1, 6, True] is not four numbers"),
        ({"target": {"boxes": [[1, 1, 6, float("nan")]]}}, "box [1, 1, 6, nan] has a number that is not finite"),
        ({"target": {"boxes": 3}}, "target.boxes is 3; expected a list"),
        ({"target": {"box": [1, 1, 6, 9]}}, "target: boxes is missing; expected the keys boxes"),
        ({"target": None}, "target: None is not an object; expected the keys boxes"),
        ({"task": "detect"}, "task is 'detect'; expected one of detection, classification, grounding"),
        ({"task": ["detection"]}, "task is ['detection']; expected one of detection, classification, grounding"),
        ({"id": ""}, "id is ''; expected text that is not empty"),
        ({"id": 7}, "id is 7; expected text that is not empty"),
        ({"query": "  "}, "query is '  '; expected text that is not empty"),
        ({"question": ""}, "question is ''; expected text that is not empty"),
        ({"images": []}, "images is empty; expected at least one"),
        ({"images": ["a.png"]}, "images: 'a.png' is not an object; expected the keys height, path, width"),
        ({"images": [{"path": "a", "width": 0, "height": 1}]}, "image width is 0; expected a number of pixels"),
        ({"target_image": 1}, "target_image is 1; expected an integer from 0 to 0"),
        ({"target_image": True}, "target_image is True; expected an integer from 0 to 0"),
        (
            {"colour": "red"},
            "colour is not a known key; expected id, images, notes, queried, query, question, rationale, region, "
            "target, target_image, task",
        ),
    ],
)
def test_a_fault_is_reported_with_place_value_and_expected_value(changes: dict[str, Any], message: str) -> None:
    assert message_of(json.dumps(record(**changes))).startswith(f"{WHERE}: {message}")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"polygons": [[1, 2, 3, 4]]}, "polygon [1, 2, 3, 4] is not [x1, y1, x2, y2, ..] of at least three points"),
        ({"polygons": [[1, 2, 3, 4, 5, 6, 7]]}, "polygon [1, 2, 3, 4, 5, 6, 7] is not [x1, y1, x2, y2, ..] of at"),
        ({"polygons": [[1, 2, 3, 4, 5, "6"]]}, "polygon [1, 2, 3, 4, 5, '6'] is not [x1, y1, x2, y2, ..] of at"),
        ({"polygons": [[1, 2, 3, 4, 5, float("inf")]]}, "polygon [1, 2, 3, 4, 5, inf] has a number that is not finite"),
        (
            {"polygons": [[1, 2, 1e12, 4, 5, 6]]},
            "polygon [1, 2, 1e+12, 4, 5, 6] reaches far outside its image of [0, 0",
        ),
        (
            {"ignored": [[1, -49, 3, 4, 5, 6]]},
            "polygon [1, -49, 3, 4, 5, 6] reaches far outside its image of [0, 0, 64",
        ),
        ({"polygons": {"a": 1}}, "polygons is {'a': 1}; expected a list"),
        ({"rle": "5"}, "rle '5' is not an object of size and counts"),
        ({"rle": {"counts": [1]}}, "rle {'counts': [1]} is not an object of size and counts"),
        (
            {"rle": {"size": [64, 48], "counts": [64 * 48]}},
            "rle has the size [64, 48]; expected [48, 64], height and width of its image",
        ),
        ({"rle": {"size": [48, 64], "counts": 7}}, "rle has the counts 7; expected a text or a list of numbers"),
        (
            {"rle": {"size": [48, 64], "counts": [7]}},
            "rle: run lengths [7] are not a mask of 64x48 pixels; expected integers of at least 0 that sum to 3072",
        ),
        ({"rle": {"size": [48, 64], "counts": "7"}}, "rle: run lengths '7' are not a mask of 64x48 pixels"),
        ({"rle": {"size": [48, 64], "counts": [True]}}, "rle: run lengths [True] are not a mask of 64x48 pixels"),
    ],
)
def test_an_invalid_mask_is_reported(mask: dict[str, Any], message: str) -> None:
    changed = record(task="grounding", target={"box": [1, 2, 30, 40]} | mask)
    assert message_of(json.dumps(changed)).startswith(f"{WHERE}: {message}")


def test_run_lengths_in_a_list_are_compressed() -> None:
    rle = {"size": [48, 64], "counts": [64 * 48]}
    changed = record(task="grounding", target={"box": [1, 2, 30, 40], "rle": rle})
    read = sample_from_line(json.dumps(changed), where=WHERE)
    assert read.rle == EMPTY
    assert json.loads(sample_to_line(read))["target"]["rle"] == {"size": [48, 64], "counts": EMPTY}


@pytest.mark.parametrize("line", ["", "{", "[1]", "3", "null", '{"id": 1}', "\x00"])
def test_a_line_that_is_not_a_sample_is_reported(line: str) -> None:
    assert message_of(line).startswith(f"{WHERE}: ")


@pytest.mark.parametrize(
    ("xyxy", "clipped"),
    [((-0.5, 0, 64.9, 48.5), (0, 0, 64, 48)), ((40, -3, 69, 20), (40, 0, 64, 20)), ((-4, 1, 5, 9), (0, 1, 5, 9))],
)
def test_a_box_a_few_pixels_outside_is_clipped(xyxy: tuple[float, ...], clipped: tuple[float, ...]) -> None:
    read = sample_from_line(json.dumps(record(target={"boxes": [list(xyxy)]})), where=WHERE)
    assert read.target == detections(clipped)  # type: ignore[arg-type]


@given(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4))
def test_a_valid_box_overlaps_its_image(xyxy: tuple[float, float, float, float]) -> None:
    if box_fault(xyxy, ImageSize(64, 48)) is None:
        x1, y1, x2, y2 = xyxy
        assert -6.4 <= x1 < x2 <= 70.4
        assert -4.8 <= y1 < y2 <= 52.8
        assert min(x2, 64) > max(x1, 0)
        assert min(y2, 48) > max(y1, 0)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"id": ' + "9" * 5000 + "}",
        sample_to_line(sample()).replace("40.0]", "9" * 400 + "]").replace("40]", "9" * 400 + "]"),
    ],
    ids=["brackets", "braces", "a number of 5,000 digits", "a number that no float holds"],
)
def test_a_malicious_line_is_refused_with_its_place(line: str) -> None:
    assert message_of(line).startswith(f"{WHERE}: ")
