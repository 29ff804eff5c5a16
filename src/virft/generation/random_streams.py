"""Random streams of sampling: one per completion, independent of the batch and the process that samples it.

A stream is a function of its names alone. So a resumed run draws the numbers that the uninterrupted one would have
drawn, and no state of a random generator has to be saved.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKey:
    """Key of all random streams of one step of a run."""

    seed: int
    """Seed of the run."""

    step: int
    """Number of the step."""

    def uniforms(self, stream_id: str, completion: int, count: int) -> NDArray[np.float64]:
        """Return ``count`` numbers in [0, 1), one per token of a completion: float64 array of shape [count].

        ``stream_id``: name of the prompt's stream within the step. ``completion``: number of the completion in its
        group. More numbers of a stream begin with the same ones.

        >>> key = StepKey(seed=0, step=3)
        >>> bool((key.uniforms("a", 1, 5)[:2] == key.uniforms("a", 1, 2)).all())
        True
        """
        key = _hashed(f"{self.seed}/{self.step}/{completion}/{stream_id}", num_bytes=16)
        return np.random.Generator(np.random.Philox(key=key)).random(count)

    def engine_seed(self, stream_id: str) -> int:
        """Return a seed for an engine with a random generator of its own, below 2^56.

        The engine may add the number of a completion to it.

        >>> StepKey(seed=0, step=3).engine_seed("a") < 2**56
        True
        """
        return _hashed(f"{self.seed}/{self.step}/{stream_id}", num_bytes=7)


def _hashed(text: str, *, num_bytes: int) -> int:
    # Not Python's `hash`, which differs between processes.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=num_bytes).digest(), "little")
