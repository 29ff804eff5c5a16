"""Endless shuffled order of sample indices, as a pure function of (number of samples, seed, position)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def shuffled_index(position: int, *, num_samples: int, seed: int) -> int:
    """Return the sample index at a position of the endless order; each epoch of ``num_samples`` is a new shuffle.

    >>> [shuffled_index(position, num_samples=3, seed=0) for position in range(6)]
    [2, 1, 0, 1, 2, 0]
    """
    epoch, offset = divmod(position, num_samples)
    return int(_epoch_order(num_samples, seed, epoch)[offset])


@lru_cache(maxsize=4)
def _epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the shuffled indices of one epoch, an int64 array of shape [num_samples].

    Raw 64-bit words are sorted instead of calling ``permutation``: NumPy guarantees the words of a bit generator to be
    the same in every version, but not the functions that are based on them.
    """
    words = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_samples)
    return np.argsort(words, kind="stable")
