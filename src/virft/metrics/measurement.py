"""What every metric returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """``values``: numbers by name, always finite; ``counts``: what they rest on. Metrics of one task share no names.

    ``tables``: further numbers, such as one for each class: table -> row -> number.
    """

    values: Mapping[str, float]
    counts: Mapping[str, int]
    tables: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def share(part: float, whole: float) -> float:
    """``part / whole``; 0 where there is no whole. Look at the count before believing a 0.

    >>> share(1, 4), share(0, 0)
    (0.25, 0.0)
    """
    return part / whole if whole else 0.0
