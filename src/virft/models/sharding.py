"""Weights shared out over processes, and a copy of the model that has all of them for as long as it is asked.

A sharded model computes only where every process computes along. Sampling, encoding images and saving do not: they
use the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, device: torch.device, num_processes: int, *, whole: Iterable[nn.Parameter] = ()) -> None:
    """Leave each process a part of every weight, on its device; ``whole`` ones stay as they are.

    Blocks of the model are gathered one at a time, when they compute; what is in no block (embeddings, norm, head)
    as long as ``module`` does. Gradients are summed over the processes, not averaged: losses have the denominator of
    the whole step.
    """
    mesh = init_device_mesh(device.type, (num_processes,))
    kept = set(whole)
    blocks = [one for one in module.modules() if type(one).__name__ in _block_names(module)]
    for one in [*(block for block in blocks if not set(block.parameters()) <= kept), module]:
        fully_shard(one, mesh=mesh, ignored_params=kept)
    sharded = [one for one in module.modules() if isinstance(one, FSDPModule)]
    for one in sharded:
        one.set_gradient_divide_factor(1.0)
        one.set_force_sum_reduction_for_comms(True)
    for one in sharded:
        # Gathered once as they are: FSDP2 remembers which weights want a gradient from the first time, which might
        # be the reference's pass, when adapters want none.
        one.unshard()
        one.reshard()


@torch.no_grad()
def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be shared out, by FSDP2 or, if it is a parameter, ZeRO-3. Every process must ask."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if is_partitioned(tensor):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.clone()
    return tensor


@torch.no_grad()
def put_whole(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter that may be shared out its whole value, which every process has."""
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

        safe_set_full_fp32_param(parameter, value)  # ZeRO steps on a copy of its own


def shard_like(own: Tensor, whole: Tensor) -> Tensor:
    """Of a whole tensor what this process holds, if ``own`` is sharded by FSDP2."""
    if not isinstance(own, DTensor):
        return whole
    # no one sends anything: every process has read the whole
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def own_part(parameter: nn.Parameter) -> Tensor:
    """What this process has of a parameter that may be shared out."""
    if is_partitioned(parameter):
        return parameter.ds_tensor  # type: ignore[no-any-return, attr-defined]
    own: Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return own.detach()


def is_partitioned(tensor: Tensor) -> bool:
    """Whether a parameter's numbers are shared out by ZeRO-3: it is empty itself."""
    return hasattr(tensor, "ds_tensor")


def _block_names(module: nn.Module) -> set[str]:
    """Classes that transformers says to keep together: decoder layers and blocks of the vision tower."""
    found = (getattr(one, "_no_split_modules", None) or () for one in module.modules())
    return {name for names in found for name in names}


class WholeCopy:
    """A copy of a model that is to be sharded, made before it is; its weights take no memory outside of ``gathered``.

    ``shared``: weights that will stay whole, and serve both. ``linear_dtype``: what linear layers are gathered in,
    where autocast would make that of them at every token; None: as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        shared: Iterable[nn.Parameter] = (),
        linear_dtype: torch.dtype | None = None,
    ) -> None:
        self._model = model
        self.shared = tuple(shared)
        self._copies: dict[int, Any] = {id(one): one for one in self.shared}
        for one in model.parameters():
            self._copies.setdefault(id(one), nn.Parameter(one.data.new_empty(0), requires_grad=False))
        self.model = copy.deepcopy(model, self._copies).to(device).eval()
        self._dtypes: dict[int, torch.dtype] = {}
        for module in self.model.modules():
            for one in module.parameters(recurse=False):
                # a head that is tied to the embeddings is no linear layer alone
                alone = isinstance(module, nn.Linear) and self._dtypes.get(id(one)) != one.dtype
                self._dtypes[id(one)] = linear_dtype if alone and linear_dtype is not None else one.dtype

    def copy_of(self, module: nn.Module) -> Any:
        """The module of the copy that stands for one of the model."""
        return self._copies[id(module)]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights here, as long as the block runs. Every process must ask at once."""
        filled = []
        for one, twin in zip(self._model.parameters(), self.model.parameters(), strict=True):
            if isinstance(one, DTensor) or is_partitioned(one):
                twin.data = whole_tensor(one).to(self._dtypes[id(twin)])
                filled.append(twin)
        try:
            yield
        finally:
            for twin in filled:
                twin.data = twin.data.new_empty(0)
