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

    def uniforms(self, noise_id: str, completion: int, count: int) -> NDArray[np.float64]:
        """``count`` numbers in [0, 1), one per token position of a completion.

        >>> key = StepKey(seed=0, step=3)
        >>> bool((key.uniforms("a", 1, 5)[:2] == key.uniforms("a", 1, 2)).all())
        True
        """
        text = f"{self.seed}/{self.step}/{completion}/{noise_id}"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(count)
