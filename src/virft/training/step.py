"""What one optimizer step did, whatever it learnt from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virft.training.monitors import NonFinite
from virft.types import RolloutGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """``metrics`` are deterministic; ``timings`` are seconds per stage.

    Where answers were sampled, ``most_different`` is the group that differed most, and ``shown`` what is logged of it.
    ``alarm``: what the user must be told of this step, whatever is told of others. ``nonfinite``: why it was skipped.
    """

    metrics: Mapping[str, float]
    timings: Mapping[str, float]
    shown: Mapping[str, Any] | None = None
    most_different: RolloutGroup | None = None
    alarm: str | None = None
    nonfinite: NonFinite | None = None


class Stopwatch:
    """Seconds per stage: ``lap("reward")`` books the time since the last lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap under ``stage``."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
