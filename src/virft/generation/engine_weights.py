"""Weights of a policy for another inference engine: one by one, adapters merged, without the vision tower."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from virft.generation.sampling_weights import merged_weight
from virft.models.load import LoadedModel
from virft.models.sharding import full_tensor, is_partitioned, unsharded

_BASE = ".base_layer."


def engine_weights(loaded: LoadedModel, dtype: torch.dtype, *, only_trained: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by the names that transformers gives them without adapters.

    Tensors have the shape of the parameter, ``dtype``, and no gradient. Weights of the vision tower are skipped, as
    images are passed as features. ``only_trained``: yield only what training changes.

    Sharded weights are gathered one at a time, or one layer with its adapters, so that no whole copy of the model is in
    memory. This is a collective operation: every process must iterate to the end.
    """
    model = loaded.model
    # Tied weights are yielded under both names: vLLM on a CPU has a copy of the output layer in another layout, and
    # would not update it if the embeddings came alone.
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if name.startswith(loaded.family.vision_names) or ".lora_" in name:
            continue
        layer_name, is_adapted, _ = name.partition(_BASE)
        # With adapters the bias of the layer is yielded too, though it is frozen: engines fuse layers (q, k, v), and
        # take a fused layer as a whole only.
        if only_trained and not is_adapted and not parameter.requires_grad:
            continue
        # Neither a local variable here nor a decorator such as no_grad: each would keep the weight in memory while the
        # next one is gathered.
        if name.endswith(f"{_BASE}weight"):
            yield name.replace(_BASE, "."), _merged(model.get_submodule(layer_name), dtype)
        else:
            yield name.replace(_BASE, "."), _gathered(parameter, dtype)


def _merged(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    with unsharded(layer):
        return merged_weight(layer).to(dtype)


def _gathered(parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
    if is_partitioned(parameter):
        return full_tensor(parameter).to(dtype)
    # Cast before it is gathered: half the bytes, and the same numbers.
    return full_tensor(parameter.detach().to(dtype))
