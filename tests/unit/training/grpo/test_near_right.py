"""Near-right answers: boxes at a stated IoU inside the image, one box missing, one twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from factories import box, sample
from virft.geometry.boxes import BoxSpace, intersection_over_union
from virft.tasks import TASKS
from virft.training.grpo.near_right import IOUS, box_at_iou, near_right_boxes
from virft.types import Detection, Detections, ImageSize

SIZE = ImageSize(200, 100)
BOXES = [box(10, 10, 60, 50), box(100, 20, 190, 90)]
ITEMS = [Detection(box=one, label=label) for one, label in zip(BOXES, ("fox", "hen"), strict=True)]
unit = st.floats(0, 1, exclude_max=True)


def uniforms(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random(count)


@given(
    iou=st.sampled_from(IOUS),
    numbers=st.lists(unit, min_size=5, max_size=5),
    x=st.lists(st.integers(0, 200), min_size=2, max_size=2, unique=True).map(sorted),
    y=st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_a_box_has_exactly_the_stated_iou_and_lies_in_the_image(
    iou: float, numbers: list[float], x: list[int], y: list[int]
) -> None:
    target = box(x[0], y[0], x[1], y[1])
    found = box_at_iou(target, iou, SIZE, numbers)
    assert intersection_over_union(found.xyxy, target.xyxy) == pytest.approx(iou, abs=1e-9)
    assert 0 <= found.x1 < found.x2 <= 200 + 1e-9 and 0 <= found.y1 < found.y2 <= 100 + 1e-9


def test_boxes_are_shifted_in_all_directions_and_shrunk_where_there_is_no_room() -> None:
    free = [box_at_iou(BOXES[0], 0.6, SIZE, uniforms(5, seed)) for seed in range(40)]
    assert {(one.x1 > 10, one.y1 > 10) for one in free} == {(a, b) for a in (True, False) for b in (True, False)}
    assert all(one.area == pytest.approx(BOXES[0].area) for one in free)
    whole = box(0, 0, 200, 100)
    assert box_at_iou(whole, 0.6, SIZE, uniforms(5)).area == pytest.approx(0.6 * whole.area)


def test_five_answers_one_box_missing_and_one_twice() -> None:
    *jittered, missing, twice = near_right_boxes(ITEMS, SIZE, uniforms)
    for iou, answer in zip(IOUS, jittered, strict=True):
        ious = [intersection_over_union(a.box.xyxy, b.xyxy) for a, b in zip(answer, BOXES, strict=True)]
        assert ious == pytest.approx([iou, iou])
        assert [one.label for one in answer] == ["fox", "hen"]
    assert len(missing) == 1 and missing[0] in ITEMS
    assert twice[:2] == ITEMS and twice[2] in ITEMS
    assert near_right_boxes([], SIZE, uniforms) == []


def test_every_box_is_sometimes_the_missing_one() -> None:
    answers = [near_right_boxes(ITEMS, SIZE, lambda n, s=seed: uniforms(n, s)) for seed in range(20)]  # type: ignore[misc]
    assert {one[3][0].box.x1 for one in answers} == {10, 100}
    assert {one[4][2].box.x1 for one in answers} == {10, 100}


@pytest.mark.parametrize("iou", IOUS)
def test_the_written_answer_has_the_iou_within_rounding(iou: float) -> None:
    question = sample(Detections(items=tuple(Detection(box=one) for one in BOXES)), size=SIZE)
    moved = [box_at_iou(one, iou, SIZE, uniforms(5, 1)) for one in BOXES]
    task, answer = TASKS["detection"], Detections(items=tuple(Detection(box=one) for one in moved))
    text = task.render(answer, space=BoxSpace.RELATIVE_1000, original=SIZE, resized=SIZE, thinking_text=None)
    read = task.read_for(text, question, thinking=False, space=BoxSpace.RELATIVE_1000, resized=SIZE).answer
    assert isinstance(read, Detections)
    for one, target in zip(read.items, BOXES, strict=True):
        # an edge is rounded by at most half a thousandth of the side: 0.1 of 50 and 0.05 of 40 pixels
        assert intersection_over_union(one.box.xyxy, target.xyxy) == pytest.approx(iou, abs=0.008)
