"""Group-relative advantages: rewards compared with the other completions of the same prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STD_EPSILON = 1e-4
_EQUAL = 1e-9
"""Rewards closer than this are equal: sums of the same parts in another order differ by rounding."""


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
