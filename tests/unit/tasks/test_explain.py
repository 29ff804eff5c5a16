"""Tests of ``virft.tasks.explain``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_factories import FRAME, box, detection, detections, grounding, mutated_answers, written
from virft.tasks.explain import explain_reward
from virft.tasks.reward import RewardRule
from virft.text.answers import read_detection
from virft.types import Detections, Label, Reading, RewardContext, Unreadable


def test_a_detection_answer_is_explained_box_by_box():
    reading = detection(
        "[{'Position': [-5, 0, 100, 80], 'Confidence': 0.5}, {'Position': [0, 0, 100, 40]}, {'Position': [1]}]"
    )
    target = detections((0, 0, 100, 100), (500, 500, 600, 600))
    rule = RewardRule(weights={"confidence": 0.5}, iou_threshold=0.25, iou_threshold_end=0.75)
    text = explain_reward(rule, "detection", reading, target, RewardContext(step_frac=0.5))
    # iou 0.8 / 3; confidence (0.75 - 1) / 3
    assert text.splitlines() == [
        "detection, robust",
        "part            value   weight    total",
        "iou             0.267    1.000    0.267",
        "confidence     -0.083    0.500   -0.042",
        "format          1.000    1.000    1.000",
        "total                             1.225",
        "3 predicted, 2 to find, hit from IoU 0.5",
        "  1  [0.0, 0.0, 100.0, 80.0]           confidence 0.5    target 1, IoU 0.800, hit",
        "  2  [0.0, 0.0, 100.0, 40.0]           confidence 1      no target, best IoU 0.400, miss",
        "invalid: 1 values in a box; expected 4 numbers: \"{'Position': [1]}\"",
        "target 2 [500.0, 500.0, 600.0, 600.0] not found",
        "1 clipped to the image",
    ]


def test_paper_shows_dropped_duplicates():
    reading = detection(written((0, 0, 9, 9, 0.5), (0, 0, 9, 9, 0.5)))
    text = explain_reward(RewardRule(preset="paper"), "detection", reading, detections((0, 0, 9, 9)))
    assert "an exact duplicate, dropped" in text


@pytest.mark.parametrize(
    ("task", "reading", "target", "line"),
    [
        ("detection", detection("No Objects"), detections(), "the answer says: no objects"),
        (
            "detection",
            detection("two dogs"),
            detections(),
            "unreadable: neither a list of boxes nor No Objects: 'two dogs'",
        ),
        (
            "grounding",
            grounding("(0,0),(100,50)"),
            box(0, 0, 100, 100),
            "box [0.0, 0.0, 100.0, 50.0], target [0.0, 0.0, 100.0, 100.0], IoU 0.500",
        ),
        (
            "classification",
            Reading(text="", well_formed=False, answer=Unreadable(reason="no answer block")),
            Label(text="cat"),
            "unreadable: no answer block",
        ),
        (
            "classification",
            Reading(text="", well_formed=True, answer=Label(text="dog")),
            Label(text="cat", aliases=("kitty",)),
            "answer 'dog', target 'cat' or 'kitty'",
        ),
    ],
)
def test_every_kind_of_answer_has_its_line(task, reading, target, line):
    assert line in explain_reward(RewardRule(), task, reading, target).splitlines()


@given(mutated_answers(), st.sampled_from(["robust", "paper"]))
def test_any_text_can_be_explained(text, preset):
    reading = read_detection(text, thinking=False, **FRAME)
    assert explain_reward(RewardRule(preset=preset), "detection", reading, detections((0, 0, 500, 500)))


@pytest.mark.parametrize(
    ("check_labels", "line"),
    [
        (False, "     label 'dog' names another class than 'cat'; reward.check_labels is off, so it costs nothing"),
        (True, "invalid: label 'dog' names another class than 'cat': '[0.0, 0.0, 9.0, 9.0]'"),
    ],
)
def test_a_label_of_another_class_is_reported(check_labels, line):
    reading = detection('[{"bbox_2d": [0, 0, 9, 9], "label": "dog"}]')
    rule = RewardRule(check_labels=check_labels)
    text = explain_reward(rule, "detection", reading, detections((0, 0, 9, 9)), RewardContext(query="cat"))
    assert line in text.splitlines()


def test_a_box_in_a_crowd_region_is_explained():
    target = Detections(crowd=(box(0, 0, 100, 100),))
    text = explain_reward(RewardRule(), "detection", detection(written((0, 0, 50, 50))), target)
    assert "in a crowd region, neither right nor wrong" in text


def test_a_miss_says_if_its_target_is_taken():
    reading = detection(written((0, 0, 100, 100), (0, 0, 100, 80), (0, 0, 100, 40)))
    text = explain_reward(RewardRule(), "detection", reading, detections((0, 0, 100, 100)))
    assert "its target is taken, best IoU 0.800, miss" in text
    assert "no target, best IoU 0.400, miss" in text
