"""Checks that stop a run before it spoils its weights."""

from __future__ import annotations

import math

from virft.errors import RunError


def require_finite(name: str, value: float, step: int) -> float:
    """The value, or ``RunError``: not-a-number in a loss or norm would reach every weight."""
    if not math.isfinite(value):
        raise RunError(
            f"step {step}: {name} is {value}; the weights are unchanged since the step before. "
            "Resume from the last checkpoint with a smaller learning rate"
        )
    return value
