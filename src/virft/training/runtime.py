"""Processes, device and precision of a run, resolved once."""

from __future__ import annotations

import datetime
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from virft.config.schema import DtypeName, Strategy
from virft.models.peak_rates import peak_rate
from virft.training.distributed import Ranks, ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Ranks, device, strategy and precision of this process. Made once for a run and passed to all that computes.

    The default is one process on a CPU in float32; ``start_runtime`` detects those of the machine.
    """

    ranks: Ranks = field(default_factory=Ranks)
    """This process among those of the run."""
    strategy: Strategy = "ddp"
    """The strategy in force, "ddp" if this process is alone (see ``start_runtime``)."""
    dtype: torch.dtype = torch.float32
    """Precision of the forward pass: float32, or bfloat16 under autocast. Trained weights are float32 either way."""

    @property
    def device(self) -> torch.device:
        """This process's GPU, or the CPU."""
        # Collectives need their tensors on the device that the policy is on, so one device serves both.
        return self.ranks.device

    @property
    def is_sharded(self) -> bool:
        """True if ranks compute in lockstep, each with a part of weights, gradients or optimizer states."""
        return self.strategy != "ddp"

    @property
    def shards_weights(self) -> bool:
        """True if no rank holds all weights: sampling and saving then need a gathered copy."""
        return self.strategy in ("fsdp2", "zero3")

    @property
    def dtype_name(self) -> DtypeName:
        """Name of ``dtype``."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype that autocast computes linear layers in; None if autocast is off."""
        return None if self.dtype == torch.float32 else self.dtype

    @property
    def device_name(self) -> str:
        """Name of the GPU, or "cpu"."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def peak_flops(self) -> float | None:
        """Peak rate of the devices of all ranks, in operations per second; None if it is not known, as in float32."""
        rate = peak_rate(self.device_name) if self.dtype == torch.bfloat16 else None
        return None if rate is None else rate * self.ranks.count

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which the model computes in ``dtype``."""
        if self.autocast_dtype is None:
            return torch.autocast(self.device.type, enabled=False)
        # No cache: it would hold a copy of every trained weight until the end of the forward pass. With gradient
        # checkpointing nothing else does, and without it the backward needs the same copies anyway.
        return torch.autocast(self.device.type, self.autocast_dtype, cache_enabled=False)


def start_runtime(
    *,
    strategy: Strategy = "ddp",
    offload_optimizer: bool = False,
    dtype: torch.dtype = torch.float32,
    timeout_minutes: float | None = None,
) -> Runtime:
    """The runtime of this process, connected to the others that a launcher started (``accelerate launch``).

    ``timeout_minutes``: longest wait for another process, in minutes; None: PyTorch's default.

    ``strategy`` is that of ``[parallel]``. A process that is alone has nothing to shard and gets "ddp", unless
    DeepSpeed is to offload the optimizer, which helps one process too.
    """
    found = ranks(None if timeout_minutes is None else datetime.timedelta(minutes=timeout_minutes))
    is_alone = found.count == 1 and not offload_optimizer
    return Runtime(ranks=found, strategy="ddp" if is_alone else strategy, dtype=dtype)
