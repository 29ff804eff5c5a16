"""The optimizer and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["linear", "constant", "cosine"]

_SCALE = "lr_scale"
"""Key of a group's factor on the learning rate."""


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


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    weight_decay: float,
    embeddings: nn.Parameter | None = None,
    embedding_lr_scale: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over the parameters that want a gradient. Betas are the paper's code's (0.9, 0.999).

    ``embeddings``, if it is among them, learns ``embedding_lr_scale`` times as fast as the rest.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in wanted if p is not embeddings or embedding_lr_scale == 1]}]
    if len(groups[0]["params"]) < len(wanted):
        groups.append({"params": [embeddings], _SCALE: embedding_lr_scale})
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, in every group its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_SCALE, 1.0)
