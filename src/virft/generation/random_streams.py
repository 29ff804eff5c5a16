"""Randomness of sampling: one stream of numbers per completion, whatever batch or process it is drawn in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKey:
    """Names the noise of one step of a run. Completions add their prompt, number and position."""

    seed: int
    step: int

    def uniforms(self, stream_id: str, completion: int, count: int) -> NDArray[np.float64]:
        """``count`` numbers in [0, 1), one per token position of a completion.

        >>> key = StepKey(seed=0, step=3)
        >>> bool((key.uniforms("a", 1, 5)[:2] == key.uniforms("a", 1, 2)).all())
        True
        """
        key = _hashed(f"{self.seed}/{self.step}/{completion}/{stream_id}", num_bytes=16)
        return np.random.Generator(np.random.Philox(key=key)).random(count)

    def engine_seed(self, stream_id: str) -> int:
        """A seed for an engine that draws by its own noise; it may add the completion's number to it.

        >>> StepKey(seed=0, step=3).engine_seed("a") < 2**56
        True
        """
        return _hashed(f"{self.seed}/{self.step}/{stream_id}", num_bytes=7)


def _hashed(text: str, *, num_bytes: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=num_bytes).digest(), "little")
