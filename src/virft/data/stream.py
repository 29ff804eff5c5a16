"""Endless shuffled order of sample indices, as a pure function of (number of samples, seed, position)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class ShuffledStream:
    """Stream of batches of indices. Batch i has the ``batch_size`` indices from position i x batch_size on.

    Each epoch is a new shuffle and has each index once, so a batch that crosses an epoch boundary (or is larger than
    the dataset) can have an index twice. ``position``, the number of the next batch, is the whole state.

    >>> stream = ShuffledStream(num_samples=3, batch_size=2, seed=0)
    >>> first, second = stream.next_batch(), stream.next_batch()
    >>> sorted(first + second[:1]), stream.position, stream.batch(0) == first
    ([0, 1, 2], 2, True)
    """

    def __init__(self, *, num_samples: int, batch_size: int, seed: int, position: int = 0) -> None:
        if num_samples < 1 or batch_size < 1:
            raise ValueError(f"a stream of {num_samples} samples in batches of {batch_size}")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.position = position

    def batch(self, i: int) -> list[int]:
        """Return the indices of batch i, without advancing the position."""
        return [self._index(place) for place in range(i * self.batch_size, (i + 1) * self.batch_size)]

    def next_batch(self) -> list[int]:
        """Return the indices of the next batch and advance the position by one."""
        indices = self.batch(self.position)
        self.position += 1
        return indices

    def _index(self, place: int) -> int:
        epoch, offset = divmod(place, self.num_samples)
        return int(_epoch_order(self.num_samples, self.seed, epoch)[offset])


@lru_cache(maxsize=4)
def _epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the shuffled indices of one epoch, an int64 array of shape [num_samples].

    Raw 64-bit words are sorted instead of calling ``permutation``: NumPy guarantees the words of a bit generator to be
    the same in every version, but not the functions that are based on them.
    """
    words = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_samples)
    return np.argsort(words, kind="stable")
