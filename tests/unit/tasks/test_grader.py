"""A completion is read in the model's own box space, by the requested blocks, and rewarded by the rule."""

from __future__ import annotations

import pytest

from toy_training import RIGHT, WRONG, question
from virft.geometry.boxes import BoxSpace
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import ImageSize, RewardContext, RewardReport

GRADER = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000)


def grade(grader: Grader, text: str, *, step_frac: float = 0.0) -> RewardReport:
    """About 100 x 100 pixels, seen as 56 x 56 by the model, with the target [20, 25, 80, 75]."""
    context = RewardContext(step_frac=step_frac)
    return grader.grade(text, question(), resized=ImageSize(56, 56), context=context)


def test_boxes_are_read_in_the_models_own_space() -> None:
    # [20, 25, 80, 75] x 56 / 100
    text = "<answer>[{'Position':[11.2,14,44.8,42],'Confidence':1.0}]</answer>"
    grader = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RESIZED_PIXELS)
    assert grade(grader, text).parts["iou"] == pytest.approx(1.0)


def test_a_rising_threshold_follows_the_run() -> None:
    # IoU of [200, 250, 800, 750] and its left two thirds: 2 / 3
    text = "<answer>[{'Position':[200,250,600,750],'Confidence':1.0}]</answer>"
    rule = RewardRule(iou_threshold=0.5, iou_threshold_end=0.9)
    grader = Grader(rule=rule, thinking=False, box_space=BoxSpace.RELATIVE_1000)
    first, last = (grade(grader, text, step_frac=frac) for frac in (0.0, 1.0))
    assert first.parts["iou"] == pytest.approx(2 / 3)
    assert last.parts["iou"] == 0.0


def test_a_think_block_is_a_format_error_if_none_is_requested() -> None:
    thinking = Grader(rule=RewardRule(), thinking=True, box_space=BoxSpace.RELATIVE_1000)
    thought = "<think>It stands left.</think>" + RIGHT
    assert grade(thinking, thought).parts["format"] == 1.0
    assert grade(GRADER, thought).parts["format"] == 0.0
    assert grade(GRADER, WRONG).parts["format"] == 1.0
