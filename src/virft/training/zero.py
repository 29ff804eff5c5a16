"""DeepSpeed's ZeRO: gradients and optimizer states, in stage 3 also weights, sharded over ranks.

A trainer runs forward and backward passes and one optimizer step, as without it. DeepSpeed hooks into both passes and
owns the step. This module turns its means over ranks into sums, because the loss has the denominator of the whole step,
and gives checkpoints unsharded tensors, from which any world size and any strategy can resume.
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

BUCKET_ELEMENTS = 1 << 26
"""Elements of gradients that one all-reduce sends (256 MiB of float32)."""


def require_deepspeed() -> None:
    """Raise ``ConfigError`` if DeepSpeed is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            'parallel.strategy "zero2" and "zero3" need deepspeed, which is not installed; '
            'expected pip install -e ".[deepspeed]" in a clone of virft, or ddp or fsdp2'
        )


class ZeroPolicy:
    """A policy that is called through DeepSpeed's engine, as its backward pass requires."""

    def __init__(self, engine: Any, num_processes: int) -> None:
        self._engine = engine
        self._num_processes = num_processes

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Log-probs [N] of a packed row, as ``Policy.__call__``."""
        logprobs: Tensor = self._engine(*args, **kwargs)
        if logprobs.requires_grad:
            # DeepSpeed averages gradients over ranks; times the world size, the average is the sum.
            logprobs.register_hook(lambda gradient: gradient * self._num_processes)
        return logprobs


class ZeroOptimizer:
    """An optimizer with sharded states behind the interface that trainers and checkpoints use.

    ``groups``: the parameters of each parameter group, before DeepSpeed replaced them with flat partitions.
    """

    def __init__(self, engine: Any, inner: torch.optim.Optimizer, groups: list[list[nn.Parameter]]) -> None:
        self._engine = engine
        self._inner = inner
        self._groups = groups

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The options of each parameter group; its ``params`` are DeepSpeed's flat partitions."""
        return self._inner.param_groups

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the numbering of the optimizer's state."""
        return [parameter for group in self._groups for parameter in group]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self._engine.optimizer.zero_grad(set_to_none=set_to_none)

    def update(self) -> float:
        """Clip and step; the gradient norm before clipping. If it is not finite, DeepSpeed has skipped the step."""
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def state_dict(self) -> dict[str, Any]:
        """The state of the equal unsharded optimizer, with tensors on the CPU in rank 0 and None in the others.

        A collective operation: every rank must call it.
        """
        from deepspeed.utils import safe_get_full_optimizer_state

        is_first = dist.get_rank() == 0

        def whole(parameter: nn.Parameter, name: str) -> Tensor | None:
            found: Tensor = safe_get_full_optimizer_state(parameter, name)
            # One at a time: the unsharded states of all parameters need not fit into a GPU.
            return found.cpu() if is_first else None

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
        """Restore what ``state_dict`` returned; all tensors are unsharded."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_set_full_optimizer_state

        state, zero = state_dict["state"], self._engine.optimizer
        if not state:
            return
        # Before its first step the optimizer has no states, and ZeRO-2 has no map from parameters to them.
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
    """Wrap a policy and its AdamW with DeepSpeed. The default process group must be initialized.

    With ``offload``, gradients and optimizer states are in main memory and the CPU computes the optimizer step.
    Raises ``ConfigError`` if DeepSpeed is not installed.
    """
    require_deepspeed()
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed's own calls; printed for each of them otherwise
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+. is deprecated", FutureWarning)
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it, and only a launcher sets it
    groups = [list(group["params"]) for group in optimizer.param_groups]
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": max_grad_norm,
        # The number of microbatches differs from step to step: reduce each gradient in its own backward pass, and
        # take the optimizer step when it is called.
        "managed_gradient_accumulation": False,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            "overlap_comm": False,
        },
    }
    if offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if autocast_dtype is not None:
        # No module's gradients are reduced in lower precision than they have.
        named = str(autocast_dtype).removeprefix("torch.")
        settings["torch_autocast"] = {"enabled": True, "dtype": named, "lower_precision_safe_modules": []}
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=settings, dist_init_required=False)
    return ZeroPolicy(engine, num_processes), ZeroOptimizer(engine, optimizer, groups)
