"""Advantages inside a group: how much better a completion was than its siblings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STD_EPSILON = 1e-4
_NO_SPREAD = 1e-9


def group_advantages(rewards: Sequence[float], *, scale_by_std: bool = True) -> NDArray[np.float64]:
    """Rewards [G] less their mean, divided by (unbiased std + 1e-4) unless ``scale_by_std`` is off.

    They add up to 0; a group of equal rewards has zeros. Source: Visual-RFT, section 3.1; without the
    division: Dr.GRPO (arXiv 2503.20783).

    >>> group_advantages([1.0, 0.0, 0.0, 1.0], scale_by_std=False).tolist()
    [0.5, -0.5, -0.5, 0.5]
    """
    values = np.asarray(rewards, dtype=np.float64)
    centred: NDArray[np.float64] = values - values.mean()
    if not has_spread(rewards):
        return np.zeros_like(centred)
    return centred / (values.std(ddof=1) + _STD_EPSILON) if scale_by_std else centred


def has_spread(rewards: Sequence[float]) -> bool:
    """Whether a group teaches anything: not all rewards are equal.

    >>> has_spread([0.1 + 0.2, 0.3])
    False
    """
    return max(rewards) - min(rewards) > _NO_SPREAD
