"""The report of one optimizer step, common to all trainers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virft.types import RolloutGroup

UPDATE_FLOPS = "update_flops"
"""Metric: operations of the forward and backward passes of a step, on all ranks (``virft.models.operations``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NonFinite:
    """A reward, loss or gradient norm that is NaN or infinite, because of which a step is skipped."""

    what: str
    """The quantity: "reward", "loss" or "gradient norm"."""
    samples: tuple[str, ...]
    """Ids of the samples it was computed from; for a gradient norm, all samples of the step's microbatches."""
    why: str = ""
    """The fault of a user's own reward function, if that is the cause."""

    def describe(self) -> str:
        """Quantity, samples and cause as one sentence without its full stop.

        >>> NonFinite(what="loss", samples=("a", "b")).describe()
        'loss is not a finite number (samples a, b)'
        """
        shown = ", ".join(self.samples[:8]) + (", .." if len(self.samples) > 8 else "")
        return f"{self.what} is not a finite number (samples {shown})" + (f": {self.why}" if self.why else "")


class NonFiniteStep(Exception):
    """Internal signal from inside a step: stop here and report the step as skipped. No user sees it."""

    def __init__(self, what: str, samples: Sequence[str], why: str = "") -> None:
        super().__init__(what)
        self.nonfinite = NonFinite(what=what, samples=tuple(samples), why=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """Numbers and examples of one optimizer step."""

    metrics: Mapping[str, float]
    """One record of ``metrics.jsonl``, step number included. Deterministic: equal runs give equal metrics."""
    timings: Mapping[str, float]
    """Stage -> wall-clock seconds."""
    rollout_record: Mapping[str, Any] | None = None
    """One record of ``rollouts.jsonl``: the best and worst completion of ``widest_group``; None without sampling."""
    widest_group: RolloutGroup | None = None
    """The group with the widest reward range, drawn for experiment trackers; None without sampling."""
    warning: str | None = None
    """A message that is printed for this step regardless of ``run.log_every``."""
    nonfinite: NonFinite | None = None
    """Set if the step was skipped because of a non-finite number; the weights are then unchanged."""


def update_mfu(metrics: Mapping[str, float], timings: Mapping[str, float], peak_flops: float | None) -> float | None:
    """Return the MFU of a step's update as a fraction; None if its operations or the peak rate are not known.

    Its operations (``UPDATE_FLOPS``) / (seconds of the stage ``update`` x peak rate of all devices). The stage includes
    the optimizer, and sending the new weights to an engine that samples.

    >>> update_mfu({"update_flops": 6e14}, {"sampling": 9.0, "update": 2.0}, 1e15)
    0.3
    """
    flops, seconds = metrics.get(UPDATE_FLOPS), timings.get("update", 0.0)
    return None if flops is None or peak_flops is None or seconds <= 0 else flops / (seconds * peak_flops)


class StageTimer:
    """Wall-clock seconds per stage: ``lap("reward")`` adds the time since the previous lap to that stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        # monotonic: the wall clock may be set while a step runs
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the seconds since the previous lap to ``stage``."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
