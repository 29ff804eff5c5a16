"""Tests of ``virft.tasks.reward``."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_factories import FRAME, box, classification, detection, detections, grid_boxes, mutated_answers, written
from factories import sample
from virft.errors import ConfigError, NonFiniteReward, RewardFailed, VirftError
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule, compute_reward
from virft.text.answers import read_classification, read_detection, read_grounding
from virft.types import Label, Reading, RewardContext

CAT = Label(text="cat")
PRESETS = ("robust", "paper")


def shortness(reading, target, context):
    return 1.0 - min(len(reading.text) / 100, 2.0)


@given(
    st.one_of(st.text(), mutated_answers()),
    st.booleans(),
    st.sampled_from(PRESETS),
    st.lists(grid_boxes(), max_size=3),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_parts_are_finite_and_within_bounds_on_any_text(text, thinking, preset, rows, threshold):
    rule = RewardRule(preset=preset, iou_threshold=threshold, weights={"format": 0.3})
    for task, reading, target in (
        ("detection", read_detection(text, thinking=thinking, **FRAME), detections(*rows)),
        ("classification", read_classification(text, thinking=thinking), CAT),
        ("grounding", read_grounding(text, thinking=thinking, **FRAME), box(10, 10, 200, 300)),
    ):
        report = compute_reward(rule, task, reading, target)
        bounds = TASKS[task].reward_bounds(preset)
        assert report.parts.keys() == bounds.keys()
        assert all(low <= report.parts[name] <= high for name, (low, high) in bounds.items())
        assert math.isfinite(report.total)


@pytest.mark.parametrize(("num_tokens", "value"), [(80, 0.0), (90, -0.5), (100, -1.0), (101, -1.0)])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_long_completion_is_penalised_if_the_rule_says_so(preset, num_tokens, value):
    counted = RewardContext(num_tokens=num_tokens, max_tokens=100)
    rule = RewardRule(preset=preset, overlong_tokens=20, weights={"overlong": 0.5})
    plain = compute_reward(RewardRule(preset=preset), "classification", classification("cat"), CAT, counted)
    report = compute_reward(rule, "classification", classification("cat"), CAT, counted)
    assert report.parts == {**plain.parts, "overlong": pytest.approx(value)}
    assert report.total == pytest.approx(plain.total + 0.5 * value)
    assert compute_reward(rule, "classification", classification("cat"), CAT).parts == plain.parts


def test_the_total_is_the_weighted_sum_of_the_parts():
    rule = RewardRule(weights={"iou": 2.0, "confidence": 0.0, "shortness": 0.5}, extra=(shortness,))
    report = compute_reward(rule, "detection", detection(written((0, 0, 100, 80, 0.9))), detections((0, 0, 100, 100)))
    shortness_value = 1.0 - len(report.reading.text) / 100
    assert report.parts == {
        "iou": 0.8,
        "confidence": pytest.approx(0.99),  # 2 * 0.9 - 0.81
        "format": 1.0,
        "shortness": pytest.approx(shortness_value),
    }
    assert report.total == pytest.approx(2.0 * 0.8 + 0.0 + 1.0 + 0.5 * shortness_value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.01, -1.01, None, "0.5", [0.5]])
def test_an_extra_reward_that_is_no_number_in_bounds_is_named(value):
    def generous(reading, target, context):
        return value

    with pytest.raises(VirftError, match=r"reward\.extra: test_reward\.py:generous returned .*; expected a f"):
        compute_reward(RewardRule(extra=(generous,)), "classification", classification("cat"), CAT)


@pytest.mark.parametrize(("value", "is_non_finite"), [(math.nan, True), (-math.inf, True), (1.01, False), ("0", False)])
def test_only_a_non_finite_number_may_be_the_samples_fault(value, is_non_finite):
    with pytest.raises(VirftError) as caught:
        compute_reward(RewardRule(extra=(lambda *_: value,)), "classification", classification("cat"), CAT)
    assert isinstance(caught.value, NonFiniteReward) == is_non_finite


def test_an_extra_reward_is_given_what_the_others_are():
    given = []

    class Watcher:
        def __call__(self, reading, target, context):
            given.append((reading, target, context))
            return 0.5

    reading, context = classification("cat"), RewardContext(step_frac=0.25)
    report = compute_reward(RewardRule(extra=(Watcher(),)), "classification", reading, CAT, context)
    assert given == [(reading, CAT, context)]
    assert report.parts["Watcher"] == 0.5  # the name of its class: an object has none


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("detection", CAT),
        ("classification", box(0, 0, 1, 1)),
        ("grounding", CAT),
        ("classification", detections()),
    ],
)
def test_a_target_of_another_task_is_our_bug_and_crashes(task, target):
    with pytest.raises(TypeError, match=f"is no target of {task}"):
        compute_reward(RewardRule(), task, classification("cat"), target)


# IoU 0.75 at confidence 0.5 and IoU 0.5 at 0.62 are worth 1.75 and 1.74: what counts more decides which one is the hit.
@pytest.mark.parametrize(
    ("settings", "iou"),
    [
        ({}, 0.75),
        ({"weights": {"confidence": 2.0}}, 0.5),
        ({"weights": {"iou": 0.5}}, 0.5),
        ({"weights": {"iou": 0.0}}, 0.5),
        ({"weights": {"iou": 2.0, "confidence": 2.0}}, 0.75),
        ({"weights": {"confidence": 2.0}, "iou_threshold": 0.6}, 0.75),
        ({"preset": "paper"}, 0.5),  # greedy by confidence
        ({"preset": "paper", "iou_threshold": 0.6}, 0.75),
    ],
)
def test_weights_and_threshold_of_the_rule_decide_what_is_matched(settings, iou):
    rule = RewardRule(**{"iou_threshold": 0.25, **settings})
    reading = detection(written((0, 0, 100, 75, 0.5), (0, 0, 100, 50, 0.62)))
    assert compute_reward(rule, "detection", reading, detections((0, 0, 100, 100))).parts["iou"] == iou / 2


@pytest.mark.parametrize("value", [1, True, np.float32(0.5), np.int64(-1), -1.0])
def test_an_extra_reward_may_return_any_kind_of_number(value):
    def one(reading, target, context):
        return value

    report = compute_reward(RewardRule(extra=(one,)), "classification", classification("cat"), CAT)
    assert type(report.parts["one"]) is float
    assert report.parts["one"] == value


def test_an_exception_of_an_extra_reward_has_the_users_lines_and_no_others():
    def _length(answer):
        return len(answer)  # of the user

    def buggy(reading, target, context):
        return _length(reading.answer) / 10

    with pytest.raises(RewardFailed) as caught:
        compute_reward(RewardRule(extra=(buggy,)), "classification", classification("cat"), CAT)
    first, *lines = str(caught.value).splitlines()
    assert first == "reward.extra: test_reward.py:buggy raised TypeError: object of type 'Label' has no len()"
    assert [line.split(": ", 1)[1] for line in lines] == [
        "return _length(reading.answer) / 10",
        "return len(answer)  # of the user",
    ]
    assert all(re.match(r"  test_reward\.py:\d+ in (buggy|_length): ", line) for line in lines)
    assert isinstance(caught.value.__cause__, TypeError)


def test_an_exception_of_an_extra_reward_names_the_sample():
    def buggy(reading, target, context):
        raise KeyError("width")

    grader = Grader(rule=RewardRule(extra=(buggy,)), thinking=False, box_space=BoxSpace.RELATIVE_1000)
    one = sample(id="fox-3")
    with pytest.raises(RewardFailed, match=r"test_reward\.py:buggy raised KeyError: 'width' for sample fox-3\n  test_"):
        grader.grade("<answer>cat</answer>", one, resized=one.image_sizes[0], context=RewardContext())


def test_an_interrupt_in_an_extra_reward_passes():
    def slow(reading, target, context):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_reward(RewardRule(extra=(slow,)), "classification", classification("cat"), CAT)


def label(reading, target, context):
    return 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "strict"}, "preset: 'strict' is not known; expected robust or paper"),
        ({"weights": {"iuo": 1.0}}, "weights: iuo is no part of the robust reward; did you mean iou?"),
        (
            {"weights": {"zz": 1.0}},
            "expected one of answer, closeness, confidence, count, format, giou, hit, iou, label",
        ),
        (
            {"weights": {"overlong": 1.0}},
            "expected one of answer, closeness, confidence, count, format, giou, hit, iou, label",
        ),
        ({"weights": {"iou": -1.0}}, "weights: iou = -1.0; expected a finite number, 0 or more"),
        ({"weights": {"iou": math.nan}}, "weights: iou = nan; expected a finite number, 0 or more"),
        ({"iou_threshold": 1.5}, "iou_threshold = 1.5; expected a number from 0 to 1"),
        ({"iou_threshold_end": -0.5}, "iou_threshold_end = -0.5; expected a number from 0 to 1"),
        ({"extra": (shortness, shortness)}, "extra: two rewards are named shortness; rename the function"),
        ({"extra": (label,)}, "extra: two rewards are named label; rename the function"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        RewardRule(**settings)
    assert message in str(caught.value)


def test_a_part_out_of_bounds_is_our_bug_and_crashes(monkeypatch):
    monkeypatch.setattr("virft.tasks.reward.format_reward", lambda *arguments: float("nan"))
    with pytest.raises(AssertionError, match="robust classification: format is nan"):
        compute_reward(RewardRule(), "classification", classification("cat"), CAT)


def test_a_part_without_bounds_is_our_bug_and_crashes(monkeypatch):
    row = TASKS["classification"]
    own = replace(row.rewards["robust"], compute=lambda *arguments: {"label": 1.0, "style": 0.5})
    monkeypatch.setitem(TASKS, "classification", replace(row, rewards={"robust": own}))
    with pytest.raises(AssertionError, match="robust classification: parts are label, style; expected label"):
        compute_reward(RewardRule(), "classification", classification("cat"), CAT)


def test_an_answer_of_another_task_earns_nothing_and_does_not_crash():
    reading = Reading(text="", well_formed=True, answer=CAT)
    assert compute_reward(RewardRule(), "grounding", reading, box(0, 0, 1, 1)).parts["giou"] == 0.0


DOG = '[{"bbox_2d": [0, 0, 100, 100], "label": "dog"}]'


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("query", "check_labels", "iou"),
    [("cat", False, 1.0), ("cat", True, 0.0), ("dog", True, 1.0), ("brown dogs", True, 1.0), (None, True, 1.0)],
)
def test_a_label_of_another_class_costs_only_with_check_labels(preset, query, check_labels, iou):
    rule = RewardRule(preset=preset, check_labels=check_labels)
    report = compute_reward(rule, "detection", detection(DOG), detections((0, 0, 100, 100)), RewardContext(query=query))
    assert report.parts["iou"] == iou


def test_the_grader_compares_labels_with_the_query_of_the_sample():
    one = sample(detections((0, 0, 100, 100)), query="cat", size=(1000, 1000))
    for check_labels, iou in ((False, 1.0), (True, 0.0)):
        grader = Grader(rule=RewardRule(check_labels=check_labels), thinking=False, box_space=BoxSpace.RELATIVE_1000)
        report = grader.grade(f"<answer>{DOG}</answer>", one, resized=one.target_size, context=RewardContext())
        assert report.parts["iou"] == iou
