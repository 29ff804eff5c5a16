"""Each task reads its own rendering, and scores, measures, describes and stores what it read."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import box, detections, labelled, reading, sample
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.geometry.points import point_target
from virft.tasks import TASKS
from virft.tasks.counting import Count
from virft.tasks.task import COMMON_METRICS, CORRECT, HALF_RIGHT
from virft.types import (
    Box,
    Detection,
    Detections,
    ImageSize,
    InvalidElement,
    Label,
    LabelledDetections,
    Point,
    Points,
    Sample,
    ShortAnswer,
    Unreadable,
)

TARGETS = {
    "detection": detections((10, 10, 30, 40), (0, 0, 64, 48)),
    "classification": Label(text="red fox"),
    "grounding": box(10, 10, 30, 40),
    "counting": Count(3),
    "multiclass_detection": labelled(
        ("fox", (10, 10, 30, 40)), ("driver's hat", (0, 0, 64, 48)), classes=("fox", "hen", "driver's hat")
    ),
    "pointing": point_target([box(10, 10, 30, 40), box(0, 0, 64, 48)]),
    "short_answer": ShortAnswer(answers=("a red car",)),
}
EVERY_TASK = pytest.mark.parametrize("name", list(TASKS))


def one_of(task: str) -> Sample:
    return sample(TARGETS[task], task=task)


def test_the_tasks_are_listed_by_name() -> None:
    assert list(TASKS) == list(TARGETS)
    assert all(task.name == name for name, task in TASKS.items())


def test_tasks_are_imported_without_numpy() -> None:
    check = "import sys, virft.tasks; sys.exit(any(name in sys.modules for name in ('numpy', 'scipy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@EVERY_TASK
def test_the_keys_of_a_target_identify_its_task(name: str) -> None:
    record = TASKS[name].target_format.to_record(one_of(name))
    matching = [task.name for task in TASKS.values() if task.target_format.required <= record.keys()]
    assert matching == [name]


@EVERY_TASK
def test_a_target_survives_its_record(name: str) -> None:
    task, one = TASKS[name], one_of(name)
    parsed = task.parse_target(task.target_format.to_record(one), one.target_size, where="x:1")
    assert parsed.target == one.target
    assert task.target_format.required <= task.target_format.properties.keys()


@EVERY_TASK
def test_an_unknown_key_of_a_target_is_an_error(name: str) -> None:
    record = TASKS[name].target_format.to_record(one_of(name)) | {"colour": "red"}
    with pytest.raises(DataError, match=r"x:1: target: colour is not a known key; expected"):
        TASKS[name].parse_target(record, ImageSize(64, 48), where="x:1")


@EVERY_TASK
@pytest.mark.parametrize("thinking_text", [None, "It has a tail."])
def test_a_rendered_target_is_read_back(name: str, thinking_text: str | None) -> None:
    task, one = TASKS[name], one_of(name)
    # Pixels are whole here, so nothing is lost.
    frame: dict[str, Any] = {"space": BoxSpace.ORIGINAL_PIXELS, "resized": ImageSize(64, 48)}
    text = task.render_for(one, thinking_text=thinking_text, **frame)
    read = task.read_for(text, one, thinking=thinking_text is not None, **frame)
    assert read.well_formed
    boxes = (Detections, LabelledDetections)
    if isinstance(read.answer, boxes) and isinstance(one.target, boxes):
        assert [(item.box, item.label) for item in read.answer.items] == [
            (item.box, item.label) for item in one.target.items
        ]
    elif isinstance(read.answer, Points) and isinstance(one.target, Points):
        assert read.answer.items == one.target.items
    else:
        assert read.answer == one.target
    assert task.score(read, one.target) == 1.0


@EVERY_TASK
def test_the_example_is_readable(name: str) -> None:
    size = ImageSize(1000, 1000)
    text = f"<answer>{TASKS[name].example.partition(' or ')[0]}</answer>"
    read = TASKS[name].read(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=size, resized=size)
    assert TASKS[name].target_fault(read.answer) is None


@given(x=st.integers(0, 60), y=st.integers(0, 44), width=st.integers(1, 4), height=st.integers(1, 4))
def test_boxes_survive_relative_numbers_within_half_a_unit(x: int, y: int, width: int, height: int) -> None:
    one = sample(box(x, y, x + width, y + height), task="grounding")
    task, size = TASKS["grounding"], ImageSize(64, 48)
    text = task.render_for(one, space=BoxSpace.RELATIVE_1000, resized=size)
    answer = task.read_for(text, one, thinking=False, space=BoxSpace.RELATIVE_1000, resized=size).answer
    assert isinstance(answer, Box)
    assert isinstance(one.target, Box)
    assert all(abs(a - b) <= 0.5 * 64 / 1000 + 1e-9 for a, b in zip(answer.xyxy, one.target.xyxy, strict=True))


@EVERY_TASK
def test_metrics_count_correct_and_unreadable_answers(name: str) -> None:
    target = TARGETS[name]
    pairs = [(reading(target), target), (reading(Unreadable(reason="empty"), well_formed=False), target)]
    measured = TASKS[name].measure(pairs)
    assert measured.values["unreadable_frac"] == 0.5
    assert measured.values["well_formed_frac"] == 0.5
    half = dict.fromkeys(("detection", "multiclass_detection", "pointing"), "recall").get(name, TASKS[name].headline)
    assert measured.values[half] == 0.5


@EVERY_TASK
def test_ratios_of_a_measurement_are_its_values(name: str) -> None:
    target = TARGETS[name]
    pairs = [(reading(target), target), (reading(Unreadable(reason="empty")), target)]
    measured = TASKS[name].measure(pairs)
    ratios = TASKS[name].ratios(measured)
    assert TASKS[name].headline in ratios
    assert {key: part / whole for key, (part, whole) in ratios.items()} == {key: measured.values[key] for key in ratios}


@EVERY_TASK
def test_every_measured_metric_of_a_report_is_described(name: str) -> None:
    task = TASKS[name]
    measured = task.measure([(reading(TARGETS[name]), TARGETS[name])])
    assert task.headline in measured.values
    assert set(COMMON_METRICS) <= set(task.described_metrics)
    described = {metric.name for metric in task.described_metrics}
    assert measured.values.keys() <= described
    assert task.metric("no such metric").description == ""


def test_detection_measures_the_calibration_of_confidences() -> None:
    sure = detections((0, 0, 10, 10), confidence=0.75)
    assert TASKS["detection"].measure([(reading(sure), sure)]).values["calibration_error"] == 0.25


@EVERY_TASK
def test_metrics_of_no_questions_are_zero(name: str) -> None:
    assert TASKS[name].measure([]).values["well_formed_frac"] == 0.0


def test_target_of_another_task_is_our_bug() -> None:
    with pytest.raises(TypeError, match="a Label is no target of detection"):
        TASKS["detection"].measure([(reading(Label(text="cat")), Label(text="cat"))])


def test_reward_parts_are_listed_with_their_bounds() -> None:
    assert list(TASKS["detection"].reward_bounds("robust")) == ["iou", "confidence", "format"]
    assert TASKS["grounding"].reward_bounds("paper") == {"giou": (0.0, 2.0), "format": (0.0, 1.0)}


@EVERY_TASK
@pytest.mark.parametrize("template", ["short", "paper"])
def test_built_in_questions_hold_query_and_tags(name: str, template: str) -> None:
    one = replace(one_of(name), query="vixen")
    plain, thinking = (
        TASKS[name].format_question(one, template=template, thinking=thinks, space=BoxSpace.RELATIVE_1000)
        for thinks in (False, True)
    )
    assert "vixen" in plain
    assert plain != thinking
    assert "{" not in plain.replace("{'Position'", "").replace("}, ...]", "")
    if template == "paper":
        assert "<answer>" in plain
        assert "<think>" in thinking.replace(plain, "")


def test_short_questions_are_those_that_the_built_in_model_was_trained_on() -> None:
    texts = [
        TASKS[name].format_question(sample(query="fox", task=name), template="short", thinking=False)
        for name in ("detection", "classification", "grounding")
    ]
    assert texts == ["Detect fox.", "Which fox is this?", "Locate fox."]


def test_the_datasets_own_question_replaces_the_template() -> None:
    own = sample(question="Where is Reynard?")
    assert TASKS["detection"].format_question(own, template="short", thinking=True) == "Where is Reynard?"


@pytest.mark.parametrize(
    ("task", "answer", "full", "short", "caption"),
    [
        (
            "detection",
            detections((1, 2, 30, 40.4), confidence=0.9),
            "1 box: 1, 2 to 30, 40 (confidence 0.90)",
            "1 box",
            "",
        ),
        ("detection", Detections(), "no objects", "no objects", "no objects"),
        (
            "detection",
            Detections(invalid=(InvalidElement(reason="no Position", piece="?"),)),
            "invalid: no Position",
            "1 invalid",
            "invalid boxes",
        ),
        ("grounding", box(1, 2, 30, 40.4), "1 box: 1, 2 to 30, 40", "1 box", ""),
        ("classification", Label(text="tabby"), "tabby", "tabby", "tabby"),
        ("counting", Count(3), *["3"] * 3),
        (
            "multiclass_detection",
            labelled(("fox", (1, 2, 30, 40.4)), ("fox", (1, 2, 5, 6)), ("hen", (3, 4, 5, 6)), confidence=0.9),
            "3 boxes: fox 1, 2 to 30, 40 (confidence 0.90); fox 1, 2 to 5, 6 (confidence 0.90); "
            "hen 3, 4 to 5, 6 (confidence 0.90)",
            "3 boxes (2 fox, 1 hen)",
            "",
        ),
        ("multiclass_detection", LabelledDetections(), *["no objects"] * 3),
        ("pointing", Points(items=(Point(1, 2), Point(30, 40.4))), "2 points: 1, 2; 30, 40", "2 points", ""),
        ("pointing", Points(), *["no objects"] * 3),
        ("short_answer", ShortAnswer(answers=("red",)), *["red"] * 3),
        ("grounding", Unreadable(reason="no answer block"), *["unreadable: no answer block"] * 3),
    ],
)
def test_descriptions_of_answers(task: str, answer: object, full: str, short: str, caption: str) -> None:
    row = TASKS[task]
    assert row.describe_answer(answer) == full
    assert row.describe_answer(answer, "short") == short
    assert row.describe_answer(answer, "caption") == caption


@pytest.mark.parametrize(
    ("task", "target", "full", "short", "caption"),
    [
        ("detection", Detections(), "no objects", "no objects", "absent"),
        ("detection", detections((1, 2, 3, 4)), "1 box: 1, 2 to 3, 4", "1 box", "1 box"),
        (
            "detection",
            detections((1, 2, 3, 4), (5, 6, 7, 8)),
            "2 boxes: 1, 2 to 3, 4; 5, 6 to 7, 8",
            "2 boxes",
            "2 boxes",
        ),
        ("grounding", box(1, 2, 3, 4), "1 box: 1, 2 to 3, 4", "1 box", "1 box"),
        (
            "multiclass_detection",
            labelled(("fox", (1, 2, 3, 4)), classes=("fox", "hen")),
            "1 box: fox 1, 2 to 3, 4",
            "1 box (1 fox)",
            "1 box (1 fox)",
        ),
        ("multiclass_detection", labelled(classes=("fox",)), *["no objects"] * 3),
        ("classification", Label(text="fox", aliases=("vulpes",)), *["fox or vulpes"] * 3),
        ("pointing", point_target([box(1, 2, 3, 4)]), "1 box: 1, 2 to 3, 4", "1 box", "1 box"),
        ("pointing", Points(), "no objects", "no objects", "absent"),
        ("short_answer", ShortAnswer(answers=("red", "crimson")), *["red or crimson"] * 3),
        ("short_answer", ShortAnswer(answers=("red", "blue"), kind="list"), *["red, blue"] * 3),
        ("short_answer", ShortAnswer(answers=("B",), kind="choice", options=("red", "blue")), *["B (blue)"] * 3),
    ],
)
def test_descriptions_of_targets(task: str, target: object, full: str, short: str, caption: str) -> None:
    row = TASKS[task]
    assert (row.describe_target(target), row.describe_target(target, "short")) == (full, short)
    assert row.describe_target(target, "caption") == caption


def test_boxes_are_those_of_detection_and_grounding() -> None:
    assert TASKS["grounding"].target_boxes(box(0, 0, 1, 1)) == (box(0, 0, 1, 1),)
    assert TASKS["classification"].target_boxes(Label(text="a")) == ()
    assert TASKS["detection"].answer_boxes(Unreadable(reason="?")) == ()
    assert TASKS["detection"].target_boxes(None) == ()


@EVERY_TASK
def test_boxes_survive_the_log_of_rollouts(name: str) -> None:
    task = TASKS[name]
    if task.boxes is None:
        assert task.answer_boxes(TARGETS[name]) == ()
        return
    found = [
        Detection(box=one.box, confidence=one.confidence, label=one.label) for one in task.answer_boxes(TARGETS[name])
    ]
    target = TARGETS[name]
    if isinstance(target, Points):
        target = Points(items=target.items)
    elif isinstance(target, LabelledDetections):
        target = replace(target, classes=())
    assert task.boxes.to_answer(found) == target


@EVERY_TASK
def test_oracle_answers_are_graded(name: str) -> None:
    samples = [replace(one_of(name), id=str(number)) for number in range(4)]
    task = TASKS[name]
    graded = list(task.oracle(samples))
    scores = {
        kind: [task.score(reading(answers[kind]), one.target) for answers, one in zip(graded, samples, strict=True)]
        for kind in (CORRECT, HALF_RIGHT)
    }
    assert scores[CORRECT] == [1.0] * 4
    assert 0.25 <= sum(scores[HALF_RIGHT]) / 4 <= 0.75


def test_a_row_without_metrics_is_refused() -> None:
    with pytest.raises(ValueError, match="task detection: metrics is empty; expected the headline first"):
        replace(TASKS["detection"], metrics=())
    with pytest.raises(ValueError, match="task detection: allows_crop needs boxes"):
        replace(TASKS["detection"], boxes=None)
