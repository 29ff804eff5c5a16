"""Trained weights of a model, and the dtype in which all its weights are loaded."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from virft.config.schema import ModelConfig
from virft.models.load import LoadedModel
from virft.models.stored_dtypes import placeholders


def weights_dtype(model: ModelConfig, dtype: torch.dtype) -> torch.dtype:
    """The dtype that weights are loaded in: the compute ``dtype`` under LoRA, else float32.

    With full fine-tuning the loaded weights are trained, and AdamW needs float32: in bfloat16 an update of 1e-6 of a
    weight is below its precision and vanishes.
    """
    return dtype if model.train == "lora" else torch.float32


def prepare_for_training(
    loaded: LoadedModel, model: ModelConfig, *, seed: int, dtype: torch.dtype | None = None
) -> None:
    """Freeze the vision tower or add LoRA adapters, and turn on gradient checkpointing, as ``[model]`` says.

    ``dtype``: that weights next to adapters will be converted to, see ``stored_dtypes``; None: they have it.
    """
    if model.train == "lora":
        # Adapters are the only weights that are drawn. A generator of their own gives the same ones on every rank
        # and in every run of this seed, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # PEFT rounds adapters to the dtype of their base, which must not depend on the model's files.
            with nullcontext() if dtype is None or model.load_in_4bit else placeholders(loaded.model, dtype):
                loaded.add_lora(model.lora_rank, model.lora_alpha)
    elif model.freeze_vision:
        loaded.freeze_vision()
    if model.gradient_checkpointing:
        loaded.checkpoint_gradients()
