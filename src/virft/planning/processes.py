"""Parts of a run's memory that its processes divide among them, by strategy."""

from __future__ import annotations

from dataclasses import dataclass

from virft.config.schema import ParallelConfig, Strategy
from virft.errors import ConfigError

ZERO3_LIVE_NUMBERS = 10**9
"""Largest number of weights that ZeRO-3 holds gathered. Source: DeepSpeed, ``stage3_max_live_parameters``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """The processes of a run, one for each GPU."""

    count: int = 1
    """World size."""

    strategy: Strategy = "ddp"
    """The strategy in force: "ddp" for a process that is alone and does not offload."""

    group: int = 1
    """Processes that share one set of sharded parts."""

    @classmethod
    def of(cls, parallel: ParallelConfig, count: int) -> Processes:
        """Return the processes of ``[parallel]``; raises ``ConfigError`` if ``shard_size`` does not fit ``count``."""
        if count == 1 and not parallel.offload_optimizer:
            return cls()
        size = parallel.shard_size if parallel.strategy == "fsdp2" and parallel.shard_size is not None else count
        if count % size:
            raise ConfigError(f"parallel.shard_size is {size} with {count} processes; expected a divisor of {count}")
        return cls(count=count, strategy=parallel.strategy, group=1 if parallel.strategy == "ddp" else size)

    @property
    def shards_weights(self) -> bool:
        """True if no process holds all weights during an update."""
        return self.strategy in ("fsdp2", "zero3")

    @property
    def is_zero(self) -> bool:
        """True if DeepSpeed shards, which steps on a float32 copy of the trained weights."""
        return self.strategy.startswith("zero")

    def part(self, size: int) -> int:
        """Return one process's bytes of something of ``size`` bytes that is sharded.

        >>> Processes(count=8, strategy="fsdp2", group=4).part(10)
        3
        """
        return -(-size // self.group)

    def weights(self, size: int) -> int:
        """Return one process's bytes of weights of ``size`` bytes."""
        return self.part(size) if self.shards_weights else size

    def items(self, batch: int) -> int:
        """Return the most items of a batch that one process gets."""
        return -(-batch // self.count)
