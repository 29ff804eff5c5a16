"""Completions become rewarded groups: one per sample, read in the model's own box space."""

from __future__ import annotations

import pytest

from group_factories import completion
from toy_training import RIGHT, WRONG, question, render
from virft.geometry.boxes import BoxSpace
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.training.grpo.rollout import reward_groups
from virft.types import RewardContext, RolloutGroup

GRADER = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000)
SAMPLES = [question("a"), question("b"), question("c")]


def rewarded() -> list[RolloutGroup]:
    return reward_groups(
        SAMPLES,
        [render(one) for one in SAMPLES],
        [[completion([2], text=WRONG), completion([1], text=RIGHT)]] * 3,
        grader=GRADER,
        policy_step=5,
        context=RewardContext(),
    )


def test_each_sample_gets_a_group_with_a_report_for_every_completion() -> None:
    groups = rewarded()
    assert [one.sample.id for one in groups] == ["a", "b", "c"]
    assert [one.policy_step for one in groups] == [5, 5, 5]
    # wrong: format 1 alone; right: iou 1, confidence 2 x 1 - 1 = 1, format 1
    assert groups[0].rewards == pytest.approx((1.0, 3.0))
