"""Choose the trained weights of a model and the precision in which all of them are loaded."""

from __future__ import annotations

import torch

from virft.config.schema import Config
from virft.models.load import LoadedModel


def weights_dtype(config: Config) -> torch.dtype:
    """What the weights are loaded in: what the model computes in, unless they are to be trained themselves."""
    wanted = config.model.dtype == "bfloat16" and config.model.train == "lora"
    return torch.bfloat16 if wanted else torch.float32


def prepare_for_training(config: Config, loaded: LoadedModel) -> None:
    """What of a model is trained, and how its layers are gone through."""
    if config.model.train == "lora":
        # the only weights that are drawn: the same ones in every process, and in every run of this seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            loaded.add_lora(config.model.lora_rank, config.model.lora_alpha)
    elif config.model.freeze_vision:
        loaded.freeze_vision()
    if config.model.gradient_checkpointing:
        loaded.checkpoint_gradients()
