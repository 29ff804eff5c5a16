"""Advantages compare completions inside their group, and only there."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.training.grpo.advantages import (
    GroupAdvantages,
    advantages_with_demonstrations,
    group_advantages,
    has_nonzero_std,
)

REWARDS = st.lists(st.floats(-3, 3, allow_nan=False), min_size=2, max_size=16)


def test_advantages_are_divided_by_the_unbiased_standard_deviation() -> None:
    # mean 2, squared distances 1 + 0 + 1 = 2, unbiased variance 2 / 2 = 1, so 1 / (1 + 0.0001)
    assert group_advantages([1.0, 2.0, 3.0]).tolist() == pytest.approx([-1 / 1.0001, 0.0, 1 / 1.0001])


def test_without_the_division_they_are_distances_to_the_mean() -> None:
    # mean (0 + 0.5 + 1) / 3 = 0.5
    assert group_advantages([0.0, 0.5, 1.0], scale_by_std=False).tolist() == [-0.5, 0.0, 0.5]


def test_equal_rewards_have_zero_advantages() -> None:
    assert group_advantages([0.7, 0.7, 0.7]).tolist() == [0.0, 0.0, 0.0]
    assert not has_nonzero_std([0.7, 0.7, 0.7])


def test_rounding_of_a_sum_is_no_variance() -> None:
    # 0.1 + 0.2 is 0.30000000000000004: divided by a tiny deviation, the distance to 0.3 would be an advantage
    assert group_advantages([0.1 + 0.2, 0.3]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale_by_std", [True, False])
@given(rewards=REWARDS)
def test_advantages_add_up_to_zero(scale_by_std: bool, rewards: list[float]) -> None:
    assert sum(group_advantages(rewards, scale_by_std=scale_by_std)) == pytest.approx(0.0, abs=1e-9)


@given(rewards=REWARDS, shift=st.floats(-2, 2))
def test_a_reward_added_to_all_changes_nothing(rewards: list[float], shift: float) -> None:
    shifted = group_advantages([reward + shift for reward in rewards], scale_by_std=False)
    assert shifted.tolist() == pytest.approx(group_advantages(rewards, scale_by_std=False).tolist(), abs=1e-8)


@given(rewards=REWARDS)
def test_a_higher_reward_never_has_a_lower_advantage(rewards: list[float]) -> None:
    ordered = group_advantages(sorted(rewards))
    assert all(low <= high for low, high in pairwise(ordered))


def test_completions_keep_their_advantages_unless_demonstrations_are_in_the_mean() -> None:
    rewards = [1.0, 2.0, 3.0]
    own = tuple(group_advantages(rewards).tolist())
    assert advantages_with_demonstrations(rewards, [5.0]).completions == own
    # mean 2.75, standard deviation of 1, 2, 3 and 5: sqrt((1.75^2 + 0.75^2 + 0.25^2 + 2.25^2) / 3)
    std = math.sqrt(8.75 / 3)
    together = advantages_with_demonstrations(rewards, [5.0], in_mean=True)
    assert together.completions == pytest.approx([(one - 2.75) / (std + 1e-4) for one in rewards])
    assert together.demonstrations == pytest.approx([2.25 / (std + 1e-4)])
    # compared with the mean 2 of the completions, on the scale of all
    assert advantages_with_demonstrations(rewards, [5.0]).demonstrations == pytest.approx([3 / (std + 1e-4)])


def test_a_better_demonstration_of_equal_completions_has_an_advantage_of_bounded_size() -> None:
    found = advantages_with_demonstrations([1.0] * 8, [1.0 + 1e-3])
    assert not any(found.completions)
    # 9 members, one of them different: difference / standard deviation = 3, at most
    assert found.demonstrations == pytest.approx((3.0,), rel=0.3)
    assert found.has_signal


@pytest.mark.parametrize("in_mean", [False, True])
def test_a_target_is_never_made_less_likely_and_a_worse_near_right_answer_is(in_mean: bool) -> None:
    found = advantages_with_demonstrations([3.0, 2.9], [2.0, 1.0], in_mean=in_mean)
    assert found.demonstrations[0] == 0.0
    assert found.demonstrations[1] < 0.0


@pytest.mark.parametrize("in_mean", [False, True])
def test_equal_rewards_of_all_members_have_no_advantage(in_mean: bool) -> None:
    found = advantages_with_demonstrations([0.1 + 0.2] * 4, [0.3], in_mean=in_mean)
    assert not found.has_signal
    assert found == GroupAdvantages((0.0,) * 4, (0.0,))
