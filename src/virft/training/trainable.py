"""Trained weights of a model, and the dtype in which all its weights are loaded."""

from __future__ import annotations

import torch

from virft.config.schema import ModelConfig
from virft.models.load import LoadedModel


def weights_dtype(model: ModelConfig) -> torch.dtype:
    """The dtype that weights are loaded in: the compute dtype under LoRA, else float32.

    With full fine-tuning the loaded weights are trained, and AdamW needs float32: in bfloat16 an update of 1e-6 of a
    weight is below its precision and vanishes.
    """
    is_frozen = model.train == "lora"
    return torch.bfloat16 if model.dtype == "bfloat16" and is_frozen else torch.float32


def prepare_for_training(loaded: LoadedModel, model: ModelConfig, *, seed: int) -> None:
    """Freeze the vision tower or add LoRA adapters, and turn on gradient checkpointing, as ``[model]`` says."""
    if model.train == "lora":
        # Adapters are the only weights that are drawn. A generator of their own gives the same ones on every rank
        # and in every run of this seed, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loaded.add_lora(model.lora_rank, model.lora_alpha)
    elif model.freeze_vision:
        loaded.freeze_vision()
    if model.gradient_checkpointing:
        loaded.checkpoint_gradients()
