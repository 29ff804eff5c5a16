"""Trained weights of a model, and the dtype in which all its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from virft.config.schema import ModelConfig
from virft.models.load import LoadedModel


def weights_dtype(model: ModelConfig, dtype: torch.dtype) -> torch.dtype:
    """The dtype that weights are loaded in: the compute ``dtype`` under LoRA, else float32.

    With full fine-tuning the loaded weights are trained, and AdamW needs float32: in bfloat16 an update of 1e-6 of a
    weight is below its precision and vanishes.
    """
    return dtype if model.train == "lora" else torch.float32


def linear_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield weights and biases of the linear layers; not those of an output layer that are embeddings too."""
    others = {
        id(one)
        for part in module.modules()
        if not isinstance(part, nn.Linear)
        for one in part.parameters(recurse=False)
    }
    for part in module.modules():
        if isinstance(part, nn.Linear):
            yield from (one for one in part.parameters(recurse=False) if id(one) not in others)


def cast_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Store the frozen float32 weights of linear layers in ``dtype``. Changes no number that autocast to it computes.

    Autocast rounds these weights for each product anyway. Embeddings, norms and convolutions are not cast.
    """
    for one in linear_parameters(module):
        if one.dtype == torch.float32 and not one.requires_grad:
            one.data = one.data.to(dtype)


def prepare_for_training(
    loaded: LoadedModel, model: ModelConfig, *, seed: int, dtype: torch.dtype = torch.float32
) -> None:
    """Freeze the vision tower or add LoRA adapters, and turn on gradient checkpointing, as ``[model]`` says.

    ``dtype``: of the computation; a frozen tower is stored in it, see ``cast_frozen``.
    """
    if model.train == "lora":
        # Adapters are the only weights that are drawn. A generator of their own gives the same ones on every rank
        # and in every run of this seed, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loaded.add_lora(model.lora_rank, model.lora_alpha)
    elif model.freeze_vision:
        loaded.freeze_vision()
        cast_frozen(loaded.model, dtype)
    if model.gradient_checkpointing:
        loaded.checkpoint_gradients()
