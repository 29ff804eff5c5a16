"""Data-parallel helpers: shard a batch over ranks, gather, all-reduce."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from virft.errors import RunError
from virft.generation.training_process import TrainingProcess

_T = TypeVar("_T")

_BUCKET = 1 << 26
"""Elements of one all-reduce (256 MiB of float32): large enough for full bandwidth, small enough for the copy of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among all of a run, and their collective operations.

    A collective blocks until every rank has called it: all ranks must call the same methods in the same order. A
    process that is alone (world size 1) sends nothing and gets back its own values.
    """

    index: int = 0
    """Rank of this process."""
    count: int = 1
    """World size."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device that tensors must be on to be sent: this rank's GPU with NCCL, the CPU with gloo."""

    @property
    def is_first(self) -> bool:
        """True for rank 0, which writes files and prints."""
        return self.index == 0

    @property
    def training_process(self) -> TrainingProcess:
        """This process among those of the run and of its machine, for engines that are placed on machines."""
        if self.count == 1:
            return TrainingProcess()
        return TrainingProcess(
            rank=self.index,
            count=self.count,
            local_rank=processes().local_process_index,
            # set by `accelerate launch` and `torchrun`
            local_count=int(os.environ.get("LOCAL_WORLD_SIZE", self.count)),
            union=self.union,
        )

    def shard(self, items: Sequence[_T]) -> list[_T]:
        """This rank's items of a batch: every ``count``-th one, so that ranks differ by at most one item.

        >>> Ranks(index=1, count=2).shard("abcde")
        ['b', 'd']
        """
        return list(items[self.index :: self.count])

    def gather(self, mine: Sequence[_T]) -> list[_T]:
        """The inverse of ``shard``: the results of all ranks in the order of the batch."""
        if self.count == 1:
            return list(mine)
        parts: list[Sequence[_T]] = [()] * self.count
        # Pickled, so of any length and type. Groups hold token ids and no tensors, so this is little data.
        dist.all_gather_object(parts, mine)
        total = sum(map(len, parts))
        # item i of the batch was item i // count of rank i % count
        return [parts[i % self.count][i // self.count] for i in range(total)]

    def union(self, mine: Sequence[_T]) -> list[_T]:
        """The items of all ranks, those of rank 0 first."""
        if self.count == 1:
            return list(mine)
        parts: list[Sequence[_T]] = [()] * self.count
        dist.all_gather_object(parts, list(mine))
        return [one for part in parts for one in part]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value summed over the ranks."""
        return dict(zip(values, self._all_reduce(list(values.values()), dist.ReduceOp.SUM), strict=True))

    def max(self, value: float) -> float:
        """The largest value of any rank."""
        return self._all_reduce([value], dist.ReduceOp.MAX)[0]

    def barrier(self) -> None:
        """Block until every rank has called this."""
        # An all-reduce on this rank's own device; with NCCL, dist.barrier would have to guess one.
        self.max(0)

    def _all_reduce(self, values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.count == 1:
            return values
        # float64, so that a sum of Python floats over ranks loses no more than one on a single rank
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, operation)
        found: list[float] = tensor.tolist()
        return found

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks; a parameter without a gradient on all ranks has none.

        A sum, not a mean: the loss already has the denominator of the whole step. Parameters sharded by FSDP2
        (DTensors) are skipped, as their gradients are reduced in the backward pass.
        """
        replicated = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.count == 1 or not replicated:
            return
        # A rank whose samples did not use a parameter has no gradient for it, but must take part in the all-reduce.
        has_gradient = torch.tensor(
            [parameter.grad is not None for parameter in replicated], dtype=torch.int32, device=self.device
        )
        dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
        used = [parameter for parameter, any_has in zip(replicated, has_gradient.tolist(), strict=True) if any_has]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in used if parameter.grad is not None]):
            # a copy of one bucket at a time, not of all gradients
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    @torch.no_grad()
    def check_equal(self, parameters: Iterable[nn.Parameter]) -> None:
        """Raise ``RunError`` unless every rank starts with the same weights; no later check would notice it."""
        if self.count == 1:
            return
        # in parts, as each is copied: a table of embeddings may have 4 GiB in float64
        parts = (part for one in parameters for part in one.flatten().split(_BUCKET))
        total = sum((part.double().abs().sum().item() for part in parts), 0.0)
        # the largest equals the smallest
        if self.max(total) != -self.max(-total):
            raise RunError(
                "the processes would begin with different weights; "
                "expected the same files of the model on every machine"
            )


def _buckets(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Consecutive tensors of one dtype that are sent in one all-reduce: many small ones would cost latency each."""
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


def processes(timeout: datetime.timedelta | None = None) -> PartialState:
    """This process among those that a launcher started (``accelerate launch``, ``torchrun``), connected to them.

    ``timeout``: longest wait for the others in a collective operation. The first call decides; None: PyTorch's default.
    """
    options = {} if timeout is None else {"timeout": timeout}
    # Without a GPU accelerate needs to know: else each of several processes on a CPU believes that it is alone.
    return PartialState(cpu=not torch.cuda.is_available(), **options)


def leave_processes() -> None:
    """Close the connections to the other ranks, at the end of the work of all; a process that is alone has none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    """This process's GPU if there is one, else the CPU."""
    # the index among the processes of this machine: with several machines, the rank would be too large
    return torch.device("cuda", processes().local_process_index) if torch.cuda.is_available() else torch.device("cpu")


def is_main_process() -> bool:
    """True for rank 0: the process that prints and writes on behalf of all."""
    return bool(processes().is_main_process)


def ranks(timeout: datetime.timedelta | None = None) -> Ranks:
    """This process among those of the run; ``timeout`` as in ``processes``."""
    state = processes(timeout)
    return Ranks(index=state.process_index, count=state.num_processes, device=device())
