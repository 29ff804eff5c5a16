"""Weights of a policy for another inference engine: adapters merged, without the vision tower."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from virft.generation.sampling_weights import merged_weight
from virft.models.load import LoadedModel

_BASE = ".base_layer."


@torch.no_grad()
def engine_weights(loaded: LoadedModel, dtype: torch.dtype, *, only_trained: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by the names that transformers gives them without adapters.

    Tensors have the shape of the parameter, ``dtype``, and no gradient. Weights of the vision tower are skipped, as
    images are passed as features. ``only_trained``: yield only what training changes.
    """
    model = loaded.model
    # Tied weights are yielded under both names: vLLM on a CPU has a copy of the output layer in another layout, and
    # would not update it if the embeddings came alone.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name.startswith(loaded.family.vision_names) or ".lora_" in name:
            continue
        layer_name, is_adapted, _ = name.partition(_BASE)
        # With adapters the bias of the layer is yielded too, though it is frozen: engines fuse layers (q, k, v), and
        # take a fused layer as a whole only.
        if only_trained and not is_adapted and not parameter.requires_grad:
            continue
        weight = parameter.detach()
        if name.endswith(f"{_BASE}weight"):
            weight = merged_weight(model.get_submodule(layer_name))
        yield name.replace(_BASE, "."), weight.to(dtype)
