"""The training processes of a run, for engines that are started on machines and shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


def _alone(items: Sequence[Any]) -> list[Any]:
    return list(items)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingProcess:
    """This process among the training processes of a run; the default is one process."""

    rank: int = 0
    """Rank of this process."""

    count: int = 1
    """World size."""

    local_rank: int = 0
    """Rank of this process on its machine."""

    local_count: int = 1
    """Number of processes on its machine."""

    union: Callable[[Sequence[Any]], list[Any]] = _alone
    """From the items of this process to those of all, those of rank 0 first. A collective operation."""

    @property
    def machine(self) -> int:
        """Rank of the first process of this machine."""
        return self.rank - self.local_rank
