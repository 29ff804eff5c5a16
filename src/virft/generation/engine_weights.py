"""The weights that another engine needs of a policy: adapters merged, the vision tower left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from virft.models.load import LoadedModel

_BASE = ".base_layer."


@torch.no_grad()
def engine_weights(loaded: LoadedModel, dtype: torch.dtype, *, only_trained: bool) -> Iterator[tuple[str, Tensor]]:
    """Names as transformers has them without adapters, and tensors of ``dtype`` without gradient.

    Not those of the vision tower: images are given as features. A weight that has two names comes twice: vLLM on a CPU
    keeps a copy of the output layer in another layout, and one that is tied would not be made anew.

    ``only_trained``: those that training changes. Of a layer with adapters the bias comes too: engines put several such
    layers into one, which must come as a whole.
    """
    model = loaded.model
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name.startswith(loaded.family.vision_names) or ".lora_" in name:
            continue
        layer_name, is_adapted, _ = name.partition(_BASE)
        if only_trained and not is_adapted and not parameter.requires_grad:
            continue
        weight = parameter.detach()
        if name.endswith(f"{_BASE}weight"):
            weight = _merged(model.get_submodule(layer_name), weight)
        yield name.replace(_BASE, "."), weight.to(dtype)


def _merged(layer: Any, weight: Tensor) -> Tensor:
    """The layer's weight with its adapters, float32."""
    changes = [layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters]
    return weight.float() + torch.stack(changes).sum(0)
