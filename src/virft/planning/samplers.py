"""Samplers of a planned run. Imports no PyTorch, so that a cached plan is read fast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerRequest:
    """GPUs of a planned run that only sample."""

    count: int
    """Number of samplers."""
    gpu: str
    """Kind of all GPUs, a key of ``PEAK_RATES``."""
    completion_tokens: int
    """Median length of a completion in tokens."""
