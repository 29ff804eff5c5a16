"""The optimizer and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from virft.errors import ConfigError
from virft.models.sharding import full_tensor
from virft.training.distributed import Ranks
from virft.training.zero import AnyOptimizer, ZeroOptimizer

Schedule = Literal["linear", "constant", "cosine"]


def learning_rate(step: int, *, peak: float, num_steps: int, warmup_steps: int = 0, schedule: Schedule) -> float:
    """Rate of step 0, 1, ..: rises over ``warmup_steps``, then runs to 0 (``constant``: stays).

    A pure function of the step, so a resumed run needs no state of it.

    >>> [learning_rate(s, peak=1.0, num_steps=4, schedule="linear") for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * ((1 - done) if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True, eq=False)
class FastRows:
    """Rows [M] of an embedding table that learn ``scale`` times as fast as everything else."""

    table: nn.Parameter
    rows: Tensor
    scale: float


OptimizerName = Literal["adamw", "adamw_8bit"]


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    weight_decay: float,
    fast: FastRows | None = None,
    scale_of: Callable[[nn.Parameter], float] | None = None,
    kind: OptimizerName = "adamw",
) -> torch.optim.Optimizer:
    """AdamW over the parameters that want a gradient. Betas are the paper's code's (0.9, 0.999).

    ``scale_of``: how many times as fast as the rest a parameter learns; there is a group for each such number.
    ``kind``: ``adamw_8bit`` is bitsandbytes'; ``ConfigError`` without the package.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in wanted:
        groups.setdefault(scale_of(parameter) if scale_of is not None else 1.0, []).append(parameter)
    options: Any = [{"params": members, _SCALE: scale} for scale, members in groups.items()]
    optimizer: torch.optim.Optimizer
    if kind == "adamw_8bit":
        optimizer = _adamw_8bit()(options, lr=0.0, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.AdamW(options, lr=0.0, weight_decay=weight_decay, fused=True)
    if fast is not None and any(parameter is fast.table for parameter in wanted):
        _speed_up(optimizer, fast)
    return optimizer


_SCALE = "lr_scale"


def _speed_up(optimizer: torch.optim.Optimizer, fast: FastRows) -> None:
    """AdamW moves every number on its own, so a longer move of some rows is the same as a rate of their own."""
    before: list[Tensor] = []

    @torch.no_grad()
    def keep(*_: Any) -> None:
        table, rows = _own_rows(fast.table, fast.rows)
        before[:] = [table[rows]]

    @torch.no_grad()
    def move_on(*_: Any) -> None:
        table, rows = _own_rows(fast.table, fast.rows)
        table[rows] = before[0] + fast.scale * (table[rows] - before[0])

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(move_on)


def _own_rows(table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of a table and rows of it, what this process has: all, or a shard and where those rows stand in it."""
    rows = rows.to(table.device)
    if not isinstance(table, DTensor):
        return table, rows
    # a shard is a chunk of rows; the last ones may be shorter
    start = table.device_mesh.get_local_rank() * -(-len(table) // table.device_mesh.size())
    shard = table.to_local()
    return shard, rows[(start <= rows) & (rows < start + len(shard))] - start


def _adamw_8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            'optimizer = "adamw_8bit" needs bitsandbytes, which is not installed; '
            'expected pip install virft[quant], or optimizer = "adamw"'
        ) from error
    return AdamW8bit


def set_learning_rate(optimizer: AnyOptimizer, rate: float) -> None:
    """The rate of the next step, in every group times the group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_SCALE, 1.0)


def update_weights(optimizer: AnyOptimizer, *, max_grad_norm: float, ranks: Ranks) -> float:
    """One step down the sum of all processes' gradients; the norm of it, before it was scaled to ``max_grad_norm``.

    Where the norm is not a finite number, the weights and the optimizer's state stay as they are.
    """
    if isinstance(optimizer, ZeroOptimizer):
        return optimizer.update()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    ranks.sum_gradients(trained)
    norm = nn.utils.clip_grad_norm_(trained, max_grad_norm)
    value: float = full_tensor(norm).item()
    if math.isfinite(value):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value
