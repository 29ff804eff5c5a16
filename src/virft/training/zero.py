"""A step whose gradients and optimizer states, and with stage 3 weights, are shared out by DeepSpeed's ZeRO.

The trainers do as ever: rows go forward and backward, then there is a step. DeepSpeed hooks into both passes and owns
the step; what is here makes its means over processes the sums that losses with the denominator of the whole step want,
and gives checkpoints the whole tensors of the format that any number of processes, and any strategy, can go on from.
Source: ZeRO (arXiv 1910.02054), ZeRO-Offload (arXiv 2101.06840).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from virft.errors import ConfigError

Stage = Literal[2, 3]

SENT_AT_ONCE = 1 << 26
"""Numbers of gradients that are gathered before they are sent (256 MiB of float32)."""


def require_deepspeed() -> None:
    """``ConfigError`` without the package."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            'parallel.strategy "zero2" and "zero3" need deepspeed, which is not installed; '
            "expected pip install virft[deepspeed], or ddp or fsdp2"
        )


class ZeroPolicy:
    """A policy as it is called where gradients are wanted: through DeepSpeed's engine."""

    def __init__(self, engine: Any, num_processes: int) -> None:
        self._engine = engine
        self._num_processes = num_processes

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """As ``Policy.__call__``."""
        found: Tensor = self._engine(*args, **kwargs)
        if found.requires_grad:
            found.register_hook(lambda gradient: gradient * self._num_processes)  # of which DeepSpeed takes the mean
        return found


class ZeroOptimizer:
    """The optimizer whose states are shared out, as trainers and checkpoints know one.

    ``groups``: the parameters of each of its groups, as they were before DeepSpeed put flat parts in their place.
    """

    def __init__(self, engine: Any, inner: torch.optim.Optimizer, groups: list[list[nn.Parameter]]) -> None:
        self._engine = engine
        self._inner = inner
        self._groups = groups

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The options of each group; its ``params`` are DeepSpeed's."""
        return self._inner.param_groups

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, numbered as in the optimizer's state."""
        return [parameter for group in self._groups for parameter in group]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self._engine.optimizer.zero_grad(set_to_none=set_to_none)

    def update(self) -> float:
        """Clip and step, as the engine was told; the norm before. Not a finite number: there was no step."""
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer in one process. All must ask; the first gets the tensors, on the CPU, others None."""
        from deepspeed.utils import safe_get_full_optimizer_state

        keep = dist.get_rank() == 0

        def whole(parameter: nn.Parameter, name: str) -> Tensor | None:
            found: Tensor = safe_get_full_optimizer_state(parameter, name)
            return found.cpu() if keep else None  # one at a time: a GPU need not have room for all of them

        steps = [values["step"] for values in self._inner.state.values() if "step" in values]
        state = {
            number: {"step": steps[0].clone(), **{name: whole(one, name) for name in _MOMENTS}}
            for number, one in enumerate(self.parameters if steps else [])
        }
        numbers = iter(range(len(self.parameters)))
        groups = [
            {**{k: v for k, v in options.items() if k != "params"}, "params": [next(numbers) for _ in members]}
            for options, members in zip(self.param_groups, self._groups, strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The way back; all values are whole."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_set_full_optimizer_state

        state, zero = state_dict["state"], self._engine.optimizer
        if not state:
            return
        # before its first step the optimizer has no states, and ZeRO-2 does not know where a parameter's are
        is_second = hasattr(zero, "single_partition_of_fp32_groups")
        flat = zero.single_partition_of_fp32_groups if is_second else zero.fp32_partitioned_groups_flat
        for one in flat:
            moments = {name: torch.zeros_like(one) for name in _MOMENTS}
            self._inner.state[one] = {"step": state[0]["step"].clone(), **moments}
        for members, one in zip(self._groups, flat, strict=True) if is_second else ():
            lazy_init_hp_params_optimizer_state(members, one, self._inner.state)
        for number, one in enumerate(self.parameters):
            for name in _MOMENTS:
                safe_set_full_optimizer_state(one, state[number][name].to(one.device), name)


AnyOptimizer: TypeAlias = torch.optim.Optimizer | ZeroOptimizer
_MOMENTS = ("exp_avg", "exp_avg_sq")


def start_zero(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    stage: Stage,
    num_processes: int,
    max_grad_norm: float,
    autocast_dtype: torch.dtype | None,
    offload: bool,
) -> tuple[ZeroPolicy, ZeroOptimizer]:
    """Hand a policy and its AdamW to DeepSpeed. The processes must be connected.

    ``offload``: gradients and optimizer states lie in main memory, and the step is taken there.
    """
    require_deepspeed()
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # told at each of DeepSpeed's calls; no one here can call otherwise
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+. is deprecated", FutureWarning)
    os.environ.setdefault("LOCAL_RANK", "0")  # a launcher sets it; without one there is one process
    groups = [list(group["params"]) for group in optimizer.param_groups]
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": max_grad_norm,
        # rows are as many as a step has: each is reduced as it comes, and the step is when it is asked for
        "managed_gradient_accumulation": False,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": SENT_AT_ONCE,
            "allgather_bucket_size": SENT_AT_ONCE,
            "overlap_comm": False,
        },
    }
    if offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if autocast_dtype is not None:
        # gradients are sent as they are, in no module in a lower precision
        named = str(autocast_dtype).removeprefix("torch.")
        settings["torch_autocast"] = {"enabled": True, "dtype": named, "lower_precision_safe_modules": []}
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=settings, dist_init_required=False)
    return ZeroPolicy(engine, num_processes), ZeroOptimizer(engine, optimizer, groups)
