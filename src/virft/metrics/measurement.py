"""The return type of all metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Metrics by name, the counts that they are computed from, and tables of metrics.

    ``values``: always finite. Metrics of one task have different names. ``tables``: table -> row -> number, such as one
    row for each class.
    """

    values: Mapping[str, float]
    counts: Mapping[str, int]
    tables: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; 0 if ``whole`` is 0. The count distinguishes the two kinds of 0.

    >>> ratio(1, 4), ratio(0, 0)
    (0.25, 0.0)
    """
    return part / whole if whole else 0.0
