"""The optimizer, its parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from virft.config.schema import OptimizerName, Schedule
from virft.errors import ConfigError
from virft.models.sharding import full_tensor
from virft.training.distributed import Ranks
from virft.training.zero import AnyOptimizer, ZeroOptimizer

_SCALE = "lr_scale"
"""Key of a parameter group: its multiplier of the scheduled learning rate. Saved with the optimizer's state."""


def learning_rate(step: int, *, peak: float, num_steps: int, warmup_steps: int = 0, schedule: Schedule) -> float:
    """Learning rate of step 0, 1, ..: linear warm-up to ``peak``, then decay to 0 ("constant": no decay).

    A pure function of the step number, so a checkpoint stores no schedule state.

    >>> [learning_rate(s, peak=1.0, num_steps=4, schedule="linear") for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        # + 1 on both sides: neither step 0 nor the last warm-up step repeats the rate of 0 or of the peak
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * ((1 - done) if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """Rows of an embedding table that learn with a learning rate of their own."""

    table: nn.Parameter
    """The embedding table, shape (V, hidden)."""
    rows: Tensor
    """Integer tensor of shape (M,): token ids."""
    scale: float
    """Multiplier of the learning rate."""


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    weight_decay: float,
    scaled_rows: ScaledRows | None = None,
    scale_of: Callable[[nn.Parameter], float] | None = None,
    kind: OptimizerName = "adamw",
) -> torch.optim.Optimizer:
    """AdamW over the parameters that require a gradient, with the betas of the Visual-RFT code, (0.9, 0.999).

    ``scale_of`` gives a parameter's multiplier of the learning rate; parameters of equal multiplier form one group.
    ``kind`` "adamw_8bit" is that of bitsandbytes; raises ``ConfigError`` if the package is missing.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in trained:
        groups.setdefault(scale_of(parameter) if scale_of is not None else 1.0, []).append(parameter)
    options: Any = [{"params": members, _SCALE: scale} for scale, members in groups.items()]
    optimizer: torch.optim.Optimizer
    if kind == "adamw_8bit":
        optimizer = _adamw_8bit()(options, lr=0.0, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.AdamW(options, lr=0.0, weight_decay=weight_decay, fused=True)
    # under LoRA the embedding table is frozen, and there is nothing to scale
    if scaled_rows is not None and any(parameter is scaled_rows.table for parameter in trained):
        _scale_updates(optimizer, scaled_rows)
    return optimizer


def _scale_updates(optimizer: torch.optim.Optimizer, scaled: ScaledRows) -> None:
    """Multiply the optimizer's update of some rows of a parameter.

    AdamW updates each element independently of the others, so a multiple of its update equals a learning rate of its
    own, and one parameter cannot be in two parameter groups.
    """
    before: list[Tensor] = []

    @torch.no_grad()
    def save_rows(*_: Any) -> None:
        table, rows = _local_rows(scaled.table, scaled.rows)
        before[:] = [table[rows]]

    @torch.no_grad()
    def scale_update(*_: Any) -> None:
        table, rows = _local_rows(scaled.table, scaled.rows)
        table[rows] = before[0] + scaled.scale * (table[rows] - before[0])

    optimizer.register_step_pre_hook(save_rows)
    optimizer.register_step_post_hook(scale_update)


def _local_rows(table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The table on this rank, whole or a shard of its rows, and the places in it of those ``rows`` [M] it holds."""
    rows = rows.to(table.device)
    if not isinstance(table, DTensor):
        return table, rows
    # FSDP2 shards dimension 0 into chunks of ceil(V / world size) rows; the last chunks may be shorter.
    axis = next(i for i, placement in enumerate(table.placements) if placement.is_shard())
    start = table.device_mesh.get_local_rank(axis) * -(-len(table) // table.device_mesh.size(axis))
    shard = table.to_local()
    return shard, rows[(start <= rows) & (rows < start + len(shard))] - start


def _adamw_8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            'optimizer = "adamw_8bit" needs bitsandbytes, which is not installed; '
            'expected pip install -e ".[quant]" in a clone of virft, or optimizer = "adamw"'
        ) from error
    return AdamW8bit


def set_learning_rate(optimizer: AnyOptimizer, rate: float) -> None:
    """Set the learning rate of the next optimizer step in every group, times the group's own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_SCALE, 1.0)


def update_weights(optimizer: AnyOptimizer, *, max_grad_norm: float, ranks: Ranks) -> float:
    """All-reduce the gradients, clip them to ``max_grad_norm`` and take one optimizer step.

    Returns the global gradient norm before clipping. If it is not finite, neither weights nor optimizer state change.
    Gradients are reset in any case.
    """
    if isinstance(optimizer, ZeroOptimizer):
        return optimizer.update()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # The norm is that of the summed gradient, so it is taken after the all-reduce.
    ranks.sum_gradients(trained)
    norm = nn.utils.clip_grad_norm_(trained, max_grad_norm)
    value: float = full_tensor(norm).item()
    if math.isfinite(value):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value
