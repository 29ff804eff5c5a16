"""Group-relative advantages: rewards compared with the other completions of the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_STD_EPSILON = 1e-4
_EQUAL = 1e-9
"""Rewards closer than this are equal: sums of the same parts in another order differ by rounding."""


class GroupAdvantages(NamedTuple):
    """Advantages of a group's completions, and of its demonstrations that are rewarded."""

    completions: Sequence[float]
    demonstrations: Sequence[float] = ()

    @property
    def has_signal(self) -> bool:
        """True if any advantage differs from 0."""
        return any(self.completions) or any(self.demonstrations)


def group_advantages(rewards: Sequence[float], *, scale_by_std: bool = True) -> NDArray[np.float64]:
    """Advantages of shape (G,): A_i = (r_i - mean(r)) / (std(r) + 1e-4), with the unbiased standard deviation.

    ``scale_by_std`` off: without the division (Dr.GRPO, arXiv 2503.20783). Advantages sum to 0; a group of equal
    rewards has zeros. Source: Visual-RFT, section 3.1.

    >>> group_advantages([1.0, 0.0, 0.0, 1.0], scale_by_std=False).tolist()
    [0.5, -0.5, -0.5, 0.5]
    """
    values = np.asarray(rewards, dtype=np.float64)
    centred: NDArray[np.float64] = values - values.mean()
    # Exact zeros: differences of up to 1e-9, divided by 1e-4, would be advantages of up to 1e-5 made of rounding.
    if not has_nonzero_std(rewards):
        return np.zeros_like(centred)
    return centred / (values.std(ddof=1) + _STD_EPSILON) if scale_by_std else centred


def has_nonzero_std(rewards: Sequence[float]) -> bool:
    """True if the rewards of a group differ, so that its completions have non-zero advantages.

    >>> has_nonzero_std([0.1 + 0.2, 0.3])
    False
    """
    return max(rewards) - min(rewards) > _EQUAL


def advantages_with_demonstrations(
    rewards: Sequence[float], demonstrations: Sequence[float], *, scale_by_std: bool = True, in_mean: bool = False
) -> GroupAdvantages:
    """Advantages of G completions with these rewards, and of D demonstrations, the target first.

    ``in_mean``: demonstrations are members of the group, (r_i - mean) / (std + 1e-4) over all G + D rewards. Otherwise
    the completions' advantages are those of ``group_advantages``, and demonstrations are compared with the completions'
    mean; their standard deviation is that of all members, so that equal completions do not divide by 0. The target's
    advantage is at least 0: a ground truth is never made less likely.

    >>> advantages_with_demonstrations([1.0, 0.0], [2.0, 1.5], scale_by_std=False)
    GroupAdvantages(completions=(0.5, -0.5), demonstrations=(1.5, 1.0))
    >>> advantages_with_demonstrations([1.0, 0.0], [2.0], scale_by_std=False, in_mean=True)
    GroupAdvantages(completions=(0.0, -1.0), demonstrations=(1.0,))
    """
    members = [*rewards, *demonstrations]
    own = group_advantages(rewards, scale_by_std=scale_by_std)
    if not demonstrations or not has_nonzero_std(members):
        return GroupAdvantages(tuple(own.tolist()), (0.0,) * len(demonstrations))
    if in_mean:
        together = group_advantages(members, scale_by_std=scale_by_std)
        own, others = together[: len(rewards)], together[len(rewards) :]
    else:
        others = np.asarray(demonstrations, dtype=np.float64) - np.mean(rewards)
        others[np.abs(others) <= _EQUAL] = 0.0
        if scale_by_std:
            others = others / (np.std(members, ddof=1) + _STD_EPSILON)
    target, *near_right = others.tolist()
    return GroupAdvantages(tuple(own.tolist()), (max(0.0, target), *near_right))
