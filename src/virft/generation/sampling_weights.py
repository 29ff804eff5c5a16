"""Linear weights cast, laid out and merged once for sampling, whose decode steps read all of them for every token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from virft.models.attention.cache import product_dtype

SamplingWeights = Literal["auto", "exact", "merged"]
"""Values of the setting ``sampling.weights``."""

MAX_COPY_BYTES = 1 << 30
"""Bytes of weights that are copied for their layout alone, not for a cast; layers beyond it are left as they are."""
_ROWS = 16
"""Number of input rows that oneDNN's layout is optimised for; it is correct for any number."""


def merges_adapters(
    setting: SamplingWeights, *, has_adapters: bool, on_cpu: bool, dtype: torch.dtype, in_4bit: bool
) -> bool:
    """Return True if the built-in sampler uses one merged copy of base and adapters.

    ``dtype``: that of the forward pass. ``in_4bit``: the base is stored in 4 bits, where a merged copy would need four
    times its memory.
    """
    if setting == "auto":
        return has_adapters and not on_cpu and dtype == torch.bfloat16 and not in_4bit
    return has_adapters and setting == "merged"


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """Return the weight of a layer with its adapters (LoRA), float32 [out, in]."""
    # Summed in float32: adapters can change a weight by less than a rounding step of bfloat16.
    with torch.autocast(layer.weight.device.type, enabled=False):
        changes = [layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters]
        weight: Tensor = layer.weight.detach().float() + torch.stack(changes).sum(0)
    return weight


@contextmanager
def ready_for_sampling(layers: Iterable[nn.Linear], *, merged: Sequence[Any] = ()) -> Iterator[None]:
    """Inside the block, linear layers use copies of their weights: in autocast's dtype, on a CPU in oneDNN's layout.

    Results are the same, except for the last bit of a few numbers in layers with very many inputs. Neither weights nor
    autocast may change inside. Layers that are quantized, sharded or hooked are not touched.

    ``merged``: layers with adapters that use one copy of base and adapters, added in float32 and rounded once. Results
    are those of the layer up to this rounding. A layer is left as it is if its base is not a plain linear layer, its
    adapters are disabled, or are of a variant of LoRA (DoRA).
    """
    # Otherwise autocast would cast every weight for every token, and on a CPU PyTorch would lay out each bfloat16
    # weight for every product.
    replaced: list[Any] = []
    room = MAX_COPY_BYTES
    try:
        parts: set[nn.Module] = set()
        for adapted in merged:
            base = adapted.get_base_layer()
            if adapted.disable_adapters or adapted.lora_variant or not _is_plain(base):
                continue
            dtype = product_dtype(base.weight)
            adapted.forward = _forward(merged_weight(adapted), base.bias, dtype, _can_pack(base.weight, dtype))
            replaced.append(adapted)
            parts.update(adapted.modules())
        for layer in (one for one in layers if one not in parts and _is_plain(one)):
            dtype = product_dtype(layer.weight)
            is_cast = dtype != layer.weight.dtype
            # A cast needs a copy anyway, so its layout costs no more memory.
            packs = _can_pack(layer.weight, dtype) and (is_cast or layer.weight.nbytes <= room)
            if not (is_cast or packs):
                continue
            if not is_cast:
                room -= layer.weight.nbytes
            # On the instance, so that deleting it restores the method of the class.
            layer.forward = _forward(layer.weight, layer.bias, dtype, packs)  # type: ignore[method-assign, assignment]
            replaced.append(layer)
        yield
    finally:
        for module in replaced:
            del module.forward


def _is_plain(layer: nn.Linear) -> bool:
    # A subclass (quantized, with adapters) or a forward of its own (hooked) may do more than a product.
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    weight = layer.weight
    # A sharded weight has another class (FSDP2) or another shape (ZeRO-3).
    return type(weight) is nn.Parameter and weight.shape == (layer.out_features, layer.in_features)


def _can_pack(weight: Tensor, dtype: torch.dtype) -> bool:
    on_cpu = weight.device.type == "cpu" and dtype == torch.bfloat16
    return on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _forward(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, packs: bool) -> Callable[[Tensor], Tensor]:
    weight, bias = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
    if not packs:
        return lambda inputs: F.linear(inputs, weight, bias)
    # The operators that PyTorch's compiler uses for frozen weights.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def forward(inputs: Tensor) -> Tensor:
        # Autocast does not cast inputs of this operator.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs.to(dtype), packed, bias, "none", [], "")
        return product

    return forward
