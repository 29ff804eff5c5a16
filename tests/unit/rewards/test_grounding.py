"""Tests of ``virft.rewards.grounding``."""

from __future__ import annotations

import pytest
from hypothesis import given

from answer_factories import box, grid_boxes, grounding
from virft.rewards.grounding import giou_reward, paper_giou_reward
from virft.types import Reading, RewardContext, Unreadable

CONTEXT = RewardContext()


def says(row):
    return Reading(text="", well_formed=True, answer=box(*row))


def test_a_box_nearby_earns_more_than_one_far_away():
    target = box(0, 0, 100, 100)
    near, far = (giou_reward(grounding(text), target, CONTEXT) for text in ("(110,0),(210,100)", "(800,0),(900,100)"))
    assert 0.0 < far < near < 0.5


def test_unreadable_earns_nothing_in_both_presets():
    reading = Reading(text="", well_formed=False, answer=Unreadable(reason="no answer block"))
    assert giou_reward(reading, box(0, 0, 1, 1), CONTEXT) == paper_giou_reward(reading, box(0, 0, 1, 1), CONTEXT) == 0.0


@given(grid_boxes(), grid_boxes())
def test_robust_is_half_of_paper_and_1_only_for_the_same_box(first, second):
    robust, paper = (part(says(first), box(*second), CONTEXT) for part in (giou_reward, paper_giou_reward))
    assert robust == pytest.approx(paper / 2)
    assert (robust == 1.0) == (first == second)
