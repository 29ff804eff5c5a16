"""Weights made ready once for the many small products of sampling, which read all of them for every token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_SECOND_BYTES = 1 << 30
"""Of weights that are laid out anew though their dtype is right; layers beyond it stay as they are."""
_ROWS = 16
"""Of the products that oneDNN's layout is made for; it serves any number."""


@contextmanager
def ready_for_sampling(layers: Iterable[nn.Linear]) -> Iterator[None]:
    """Inside, linear layers compute with a copy of their weights: in autocast's dtype, and on a CPU in oneDNN's layout.

    Autocast would cast every weight for every token, and on a CPU PyTorch lays out a weight in bfloat16 for every
    product. The numbers are the same, but for the last bit of a few in layers with very many inputs. Weights must not
    change inside, nor autocast. Layers that are quantized, sharded or hooked are left alone. The operators of the
    layout are those of PyTorch's compiler for frozen weights.
    """
    replaced: list[nn.Linear] = []
    room = MOST_SECOND_BYTES
    try:
        for layer in filter(_is_whole, layers):
            dtype = _dtype_of_products(layer.weight)
            is_cast = dtype != layer.weight.dtype
            packs = _can_pack(layer.weight, dtype) and (is_cast or layer.weight.nbytes <= room)
            if not (is_cast or packs):
                continue
            if not is_cast:
                room -= layer.weight.nbytes
            layer.forward = _forward(layer, dtype, packs)  # type: ignore[method-assign, assignment]
            replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            del layer.forward


def _is_whole(layer: nn.Linear) -> bool:
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    weight = layer.weight  # sharded: of another class (FSDP2) or another shape (ZeRO-3)
    return type(weight) is nn.Parameter and weight.shape == (layer.out_features, layer.in_features)


def _dtype_of_products(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _can_pack(weight: Tensor, dtype: torch.dtype) -> bool:
    on_cpu = weight.device.type == "cpu" and dtype == torch.bfloat16
    return on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _forward(layer: nn.Linear, dtype: torch.dtype, packs: bool) -> Callable[[Tensor], Tensor]:
    weight, bias = (None if x is None else x.detach().to(dtype) for x in (layer.weight, layer.bias))
    if not packs:
        return lambda inputs: F.linear(inputs, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def forward(inputs: Tensor) -> Tensor:
        # autocast does not know this operator, so what it would have cast is cast here
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs.to(dtype), packed, bias, "none", [], "")
        return product

    return forward
