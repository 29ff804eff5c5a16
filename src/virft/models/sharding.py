"""Weights sharded over processes (FSDP2 or ZeRO-3), and a gathered, unsharded copy of the model.

A sharded model computes only where every process runs the same forward pass. Sampling, encoding images, validation and
saving run a different number of them in each process, so they use the copy, whose weights exist for that time only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from virft.models.stored_dtypes import StoredDtype, own_dtype

MAX_UNREDUCED_BYTES = 1 << 31
"""Largest size of a module's gradients, in float32, that each process holds unsharded until the last row of a step."""


def shard(
    module: nn.Module,
    device: torch.device,
    num_processes: int,
    *,
    shard_size: int | None = None,
    dtype: torch.dtype | None = None,
    replicated: Iterable[nn.Parameter] = (),
    stored_dtype: StoredDtype = own_dtype,
) -> None:
    """Shard the weights of a module over the processes with FSDP2; ``replicated`` ones stay complete everywhere.

    Decoder layers and vision blocks are gathered one at a time, when they compute. What is in no block (embeddings,
    norm, head) is gathered for the whole forward and backward of ``module``. Gradients are summed over the processes.

    ``dtype``: that in which weights are gathered, autocast's; None for their own. Sums of gradients over processes and
    rows are float32 in any case. ``stored_dtype``: of a weight's shards. The weights of a block are converted on
    ``device`` right before they are sharded, so that a process never holds more than one converted block.
    ``shard_size``: number of processes that share one set of weights (HSDP); it divides ``num_processes``, which is the
    default.
    """
    mesh = _mesh(device, num_processes, shard_size or num_processes)
    # Autocast would cast gathered weights and retain the copies of all layers until the end of the forward pass.
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=None if dtype is None else torch.float32, cast_forward_inputs=False
    )
    ignored = set(replicated)
    for one in module.modules():
        # Autocast leaves embeddings, and with them the hidden states between layers, in float32.
        if dtype is not None and isinstance(one, nn.Embedding) and stored_dtype(one.weight) == torch.float32:
            one.register_forward_hook(lambda _, __, output: output.float())
    blocks = [one for one in module.modules() if type(one).__name__ in _block_names(module)]
    # A block of replicated weights only (a frozen tower) has nothing to shard.
    for one in [*(block for block in blocks if not set(block.parameters()) <= ignored), module]:
        for weight in one.parameters():
            if weight not in ignored and not isinstance(weight, DTensor):
                # Moved first: on a GPU, the converted weight is never in main memory.
                weight.data = weight.data.to(device).to(stored_dtype(weight))
        fully_shard(one, mesh=mesh, mp_policy=policy, ignored_params=ignored)
    sharded = [one for one in module.modules() if isinstance(one, FSDPModule)]
    for one in sharded:
        # Sums, not means: losses already have the denominator of the whole step.
        one.set_gradient_divide_factor(1.0)
        one.set_force_sum_reduction_for_comms(True)
    for one in sharded:
        # Gathered once now: FSDP2 records which weights want a gradient at the first time. That could be the forward
        # pass of the reference, with adapters disabled, and adapters would never get a gradient.
        one.unshard()
        one.reshard()


def _mesh(device: torch.device, num_processes: int, shard_size: int) -> DeviceMesh:
    """All processes in a line, or in rows of ``shard_size``, of which each has all weights."""
    if shard_size == num_processes:
        return init_device_mesh(device.type, (num_processes,), mesh_dim_names=("shard",))
    shape = (num_processes // shard_size, shard_size)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def reduce_gradients_in_backward(module: nn.Module, *, is_last_row: bool) -> None:
    """Set what the next backward pass of a module that ``shard`` has sharded sends; other modules are not changed.

    Small gradients (of adapters) are added up unsharded over the rows of a step and reduced in the backward of the last
    one. Larger ones would need the memory that sharding saves, so each row reduces them within a group of
    ``shard_size`` processes; the groups are summed with the last row.
    """
    if not isinstance(module, FSDPModule):
        return
    numbers = sum(one.numel() for one in module.parameters() if one.requires_grad and isinstance(one, DTensor))
    if numbers * 4 <= MAX_UNREDUCED_BYTES:
        module.set_requires_gradient_sync(is_last_row)
    else:
        module.set_requires_all_reduce(is_last_row)


@torch.no_grad()
def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor, of the unsharded shape, of one that may be sharded by FSDP2 or, a parameter, by ZeRO-3.

    A collective operation: every process must call it.
    """
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if is_partitioned(tensor):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.clone()
    return tensor


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Inside the block, parameters of a module that FSDP2 or ZeRO-3 shards are full tensors, without gradient.

    A collective operation: every process must enter it. The module must not be called inside.
    """
    sharded = [
        (owner, name, one)
        for owner in module.modules()
        for name, one in owner.named_parameters(recurse=False)
        if isinstance(one, DTensor) or is_partitioned(one)
    ]
    try:
        for owner, name, one in sharded:
            owner._parameters[name] = nn.Parameter(full_tensor(one), requires_grad=False)
        yield
    finally:
        for owner, name, one in sharded:
            owner._parameters[name] = one


@torch.no_grad()
def write_full_tensor(parameter: nn.Parameter, value: Tensor) -> None:
    """Set a parameter that may be sharded to ``value``, of its unsharded shape, which every process has."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        parameter.copy_(shard_like(parameter, value))
    elif is_partitioned(parameter):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
    else:
        parameter.copy_(value)
    if is_partitioned(parameter) or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_set_full_fp32_param

        # ZeRO's optimizer steps on a float32 copy of its own, which would overwrite the new value.
        safe_set_full_fp32_param(parameter, value)


def shard_like(own: Tensor, full: Tensor) -> Tensor:
    """Return this process's shard of ``full``, of the shape of ``own``; ``full`` itself if ``own`` is not sharded."""
    if not isinstance(own, DTensor):
        return full
    # No source rank: every process has read the full tensor, so nothing has to be sent.
    return distribute_tensor(full.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def local_shard(parameter: nn.Parameter) -> Tensor:
    """Return this process's part of a parameter, detached; its shape is the parameter's own if it is not sharded."""
    if is_partitioned(parameter):
        return parameter.ds_tensor  # type: ignore[no-any-return, attr-defined]
    own: Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return own.detach()


def is_partitioned(tensor: Tensor) -> bool:
    """True if a parameter is sharded by ZeRO-3; its own shape is then [0]."""
    return hasattr(tensor, "ds_tensor")


def _block_names(module: nn.Module) -> set[str]:
    """Class names of decoder layers and vision blocks, which transformers lists as not to be split."""
    found = (getattr(one, "_no_split_modules", None) or () for one in module.modules())
    return {name for names in found for name in names}


class GatheredCopy:
    """Unsharded copy of a model, made before the model is sharded. Its weights use memory inside ``gathered`` only.

    ``shared``: weights that are not sharded; model and copy use the same tensors. ``linear_dtype``: dtype in which
    weights of linear layers are gathered, where autocast would cast them for every token; None retains theirs.
    ``stored_dtype``: of the shards, as for ``shard``.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        shared: Iterable[nn.Parameter] = (),
        linear_dtype: torch.dtype | None = None,
        stored_dtype: StoredDtype = own_dtype,
    ) -> None:
        self._model = model
        self.shared = tuple(shared)
        # deepcopy takes a parameter from this memo where it has one: shared ones as they are, the others empty, so
        # that no second set of weights is ever in memory.
        self._copies: dict[int, Any] = {id(one): one for one in self.shared}
        for one in model.parameters():
            self._copies.setdefault(id(one), nn.Parameter(one.data.new_empty(0, dtype=stored_dtype(one)), False))
        self.model = copy.deepcopy(model, self._copies).to(device).eval()
        self._dtypes: dict[int, torch.dtype] = {}
        for module in self.model.modules():
            for one in module.parameters(recurse=False):
                # A head that is tied to the embeddings retains its dtype: an embedding is not cast by autocast.
                only_linear = isinstance(module, nn.Linear) and self._dtypes.get(id(one)) != one.dtype
                self._dtypes[id(one)] = linear_dtype if only_linear and linear_dtype is not None else one.dtype

    def copy_of(self, module: nn.Module) -> Any:
        """Return the module of the copy that corresponds to a module of the model."""
        return self._copies[id(module)]

    @contextmanager
    def gathered(self, only: Iterable[nn.Parameter] | None = None) -> Iterator[None]:
        """Inside the block, the copy has all weights. A collective operation: every process must enter it.

        ``only``: those of its weights that are gathered.
        """
        filled = []
        chosen = None if only is None else set(only)
        for one, twin in zip(self._model.parameters(), self.model.parameters(), strict=True):
            if (isinstance(one, DTensor) or is_partitioned(one)) and (chosen is None or twin in chosen):
                twin.data = full_tensor(one).to(self._dtypes[id(twin)])
                filled.append(twin)
        try:
            yield
        finally:
            for twin in filled:
                twin.data = twin.data.new_empty(0)
