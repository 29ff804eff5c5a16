"""Each task reads what it writes, and measures what it read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import box, detections, reading, sample
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.types import Box, Detections, ImageSize, Label, Sample, TaskName, Unreadable

TARGETS = {
    TaskName.DETECTION: detections((10, 10, 30, 40), (0, 0, 64, 48)),
    TaskName.CLASSIFICATION: Label(text="red fox"),
    TaskName.GROUNDING: box(10, 10, 30, 40),
}


def asked(task: TaskName) -> Sample:
    return sample(TARGETS[task], task=task)


def test_there_is_a_row_for_every_task() -> None:
    assert list(TASKS) == list(TaskName)
    assert all(task.name is name for name, task in TASKS.items())


@pytest.mark.parametrize("name", list(TaskName))
@pytest.mark.parametrize("thinking_text", [None, "It has a tail."])
def test_what_is_rendered_is_read_back(name: TaskName, thinking_text: str | None) -> None:
    task, one = TASKS[name], asked(name)
    # Pixels are whole here, so nothing is lost.
    frame = {"space": BoxSpace.ORIGINAL_PIXELS, "resized": ImageSize(64, 48)}
    text = task.render_for(one, thinking_text=thinking_text, **frame)  # type: ignore[arg-type]
    read = task.read_for(text, one, thinking=thinking_text is not None, **frame)  # type: ignore[arg-type]
    assert read.well_formed
    if isinstance(read.answer, Detections) and isinstance(one.target, Detections):
        assert [item.box for item in read.answer.items] == [item.box for item in one.target.items]
    else:
        assert read.answer == one.target


@given(x=st.integers(0, 60), y=st.integers(0, 44), width=st.integers(1, 4), height=st.integers(1, 4))
def test_boxes_survive_relative_numbers_within_half_a_unit(x: int, y: int, width: int, height: int) -> None:
    one = sample(box(x, y, x + width, y + height), task=TaskName.GROUNDING)
    task, size = TASKS[TaskName.GROUNDING], ImageSize(64, 48)
    text = task.render_for(one, space=BoxSpace.RELATIVE_1000, resized=size)
    answer = task.read_for(text, one, thinking=False, space=BoxSpace.RELATIVE_1000, resized=size).answer
    assert isinstance(answer, Box)
    assert isinstance(one.target, Box)
    assert all(abs(a - b) <= 0.5 * 64 / 1000 + 1e-9 for a, b in zip(answer.xyxy, one.target.xyxy, strict=True))


@pytest.mark.parametrize("name", list(TaskName))
def test_measures_count_right_wrong_and_unreadable(name: TaskName) -> None:
    target = TARGETS[name]
    pairs = [(reading(target), target), (reading(Unreadable(reason="noise"), well_formed=False), target)]
    measured = TASKS[name].measure(pairs)
    assert measured.values["unreadable_frac"] == 0.5
    assert measured.values["well_formed_frac"] == 0.5
    headline = {"detection": "recall", "classification": "accuracy", "grounding": "box_miou"}[name]
    assert measured.values[headline] == 0.5


def test_detection_tells_whether_confidences_are_honest() -> None:
    sure = detections((0, 0, 10, 10), confidence=0.75)
    assert TASKS[TaskName.DETECTION].measure([(reading(sure), sure)]).values["calibration_error"] == 0.25


@pytest.mark.parametrize("name", list(TaskName))
def test_no_questions_are_no_crash(name: TaskName) -> None:
    assert TASKS[name].measure([]).values["well_formed_frac"] == 0.0


def test_target_of_another_task_is_our_bug() -> None:
    with pytest.raises(TypeError, match="a Label is no target of detection"):
        TASKS[TaskName.DETECTION].measure([(reading(Label(text="cat")), Label(text="cat"))])


def test_reward_parts_are_named() -> None:
    assert TASKS[TaskName.DETECTION].reward_parts("robust") == ("iou", "confidence", "format")
    assert TASKS[TaskName.GROUNDING].reward_parts("paper") == ("giou", "format")
