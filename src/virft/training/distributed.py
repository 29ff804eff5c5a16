"""The processes of a run: which part of a step is this one's, and what they tell one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from virft.errors import RunError

_T = TypeVar("_T")

_BUCKET = 1 << 26
"""Numbers that are sent at once (256 MiB of float32)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process, number ``index`` of ``count``. One that is alone sends nothing and gets back what it gave.

    Every process must call the same methods in the same order. ``device``: where a tensor must lie to be sent.
    """

    index: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    def share(self, items: Sequence[_T]) -> list[_T]:
        """This process's part of a batch: every ``count``-th item.

        >>> Ranks(index=1, count=2).share("abcde")
        ['b', 'd']
        """
        return list(items[self.index :: self.count])

    def gather(self, mine: Sequence[_T]) -> list[_T]:
        """The way back from ``share``: what all made of their parts, in the order of the batch."""
        if self.count == 1:
            return list(mine)
        parts: list[Sequence[_T]] = [()] * self.count
        dist.all_gather_object(parts, mine)
        total = sum(map(len, parts))
        return [parts[i % self.count][i // self.count] for i in range(total)]

    def union(self, mine: Sequence[_T]) -> list[_T]:
        """What all have, one process after the other."""
        if self.count == 1:
            return list(mine)
        parts: list[Sequence[_T]] = [()] * self.count
        dist.all_gather_object(parts, list(mine))
        return [one for part in parts for one in part]

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value summed over the processes, in float64."""
        return dict(zip(values, self._reduced(list(values.values()), dist.ReduceOp.SUM), strict=True))

    def largest(self, value: float) -> float:
        """The largest of the processes' values."""
        return self._reduced([value], dist.ReduceOp.MAX)[0]

    def wait(self) -> None:
        """Go on when every process has come here."""
        self.largest(0)

    def _reduced(self, values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, operation)
        found: list[float] = tensor.tolist()
        return found

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the sum over the processes; where none has one, there is none.

        Shards (DTensors) are left alone: their gradients are summed in the backward.
        """
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.count == 1 or not whole:
            return
        used = torch.tensor([parameter.grad is not None for parameter in whole], dtype=torch.int32, device=self.device)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        wanted = [parameter for parameter, any_has in zip(whole, used.tolist(), strict=True) if any_has]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for some in _buckets([parameter.grad for parameter in wanted if parameter.grad is not None]):
            flat = torch.cat([one.flatten() for one in some])
            dist.all_reduce(flat)
            for one, total in zip(some, flat.split([one.numel() for one in some]), strict=True):
                one.copy_(total.view_as(one))

    @torch.no_grad()
    def require_equal(self, parameters: Iterable[nn.Parameter]) -> None:
        """``RunError`` unless every process begins with the same weights: nothing later would tell."""
        if self.count == 1:
            return
        total = sum((one.double().abs().sum().item() for one in parameters), 0.0)
        if self.largest(total) != -self.largest(-total):
            raise RunError(
                "the processes would begin with different weights; "
                "expected the same files of the model on every machine"
            )


def _buckets(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors of one dtype that are sent together, in order."""
    bucket: list[Tensor] = []
    size = 0
    for one in tensors:
        if bucket and (size + one.numel() > _BUCKET or one.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(one)
        size += one.numel()
    if bucket:
        yield bucket


def processes() -> PartialState:
    """This process among those that a launcher started (``accelerate launch``, ``torchrun``), connected with them.

    Accelerate must be told that there is no GPU: else each of several processes on a CPU takes itself for the only one.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def leave_processes() -> None:
    """Close the connections with the other processes, when all have come to the end of their work. Alone: nothing."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    """This process's GPU, if there is one."""
    return torch.device("cuda", processes().local_process_index) if torch.cuda.is_available() else torch.device("cpu")


def is_main_process() -> bool:
    """Whether this is the only process, or the first of several: the one that prints and writes what is for all."""
    return bool(processes().is_main_process)


def ranks() -> Ranks:
    """This process among those of the run."""
    state = processes()
    return Ranks(index=state.process_index, count=state.num_processes, device=device())
