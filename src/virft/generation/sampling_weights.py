"""Linear weights cast and laid out once for sampling, whose decode steps read all of them for every token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_COPY_BYTES = 1 << 30
"""Bytes of weights that are copied for their layout alone, not for a cast; layers beyond it are left as they are."""
_ROWS = 16
"""Number of input rows that oneDNN's layout is optimised for; it is correct for any number."""


@contextmanager
def ready_for_sampling(layers: Iterable[nn.Linear]) -> Iterator[None]:
    """Inside the block, linear layers use copies of their weights: in autocast's dtype, on a CPU in oneDNN's layout.

    Results are the same, except for the last bit of a few numbers in layers with very many inputs. Neither weights nor
    autocast may change inside. Layers that are quantized, sharded or hooked are not touched.
    """
    # Otherwise autocast would cast every weight for every token, and on a CPU PyTorch would lay out each bfloat16
    # weight for every product.
    replaced: list[nn.Linear] = []
    room = MAX_COPY_BYTES
    try:
        for layer in filter(_is_plain, layers):
            dtype = _dtype_of_products(layer.weight)
            is_cast = dtype != layer.weight.dtype
            # A cast needs a copy anyway, so its layout costs no more memory.
            packs = _can_pack(layer.weight, dtype) and (is_cast or layer.weight.nbytes <= room)
            if not (is_cast or packs):
                continue
            if not is_cast:
                room -= layer.weight.nbytes
            # On the instance, so that deleting it restores the method of the class.
            layer.forward = _forward(layer, dtype, packs)  # type: ignore[method-assign, assignment]
            replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            del layer.forward


def _is_plain(layer: nn.Linear) -> bool:
    # A subclass (quantized, with adapters) or a forward of its own (hooked) may do more than a product.
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    weight = layer.weight
    # A sharded weight has another class (FSDP2) or another shape (ZeRO-3).
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
    # The operators that PyTorch's compiler uses for frozen weights.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def forward(inputs: Tensor) -> Tensor:
        # Autocast does not cast inputs of this operator.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs.to(dtype), packed, bias, "none", [], "")
        return product

    return forward
