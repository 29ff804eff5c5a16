"""Parts of a run by its config, as ``virft.recipes.train`` makes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from virft.config.schema import Config, DataConfig, RunConfig
from virft.inference.prompting import Prompting
from virft.models.load import LoadedModel
from virft.recipes.setup import load_for_training, make_prompting, make_runtime
from virft.recipes.trainers import make_grpo_trainer, make_sft_trainer
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.runtime import Runtime
from virft.training.sft.trainer import SFTTrainer


def make_config(**sections: Any) -> Config:
    """A config with a dataset and a run folder that are not opened."""
    return Config(**{"data": DataConfig(train="d"), "run": RunConfig(dir="r")} | sections)


def runtime_of(config: Config) -> Runtime:
    return make_runtime(config.model, config.parallel)


def load_model_of(config: Config) -> LoadedModel:
    """The config's model, ready to be trained."""
    return load_for_training(config.model, runtime_of(config), seed=config.seed)


def prompting_of(config: Config, loaded: LoadedModel) -> Prompting:
    return make_prompting(config.prompt, config.mixture, loaded)


def grpo_trainer_of(config: Config, loaded: LoadedModel, class_names: Iterable[str] = ()) -> GRPOTrainer:
    return make_grpo_trainer(config, loaded, prompting_of(config, loaded), runtime_of(config), class_names)


def sft_trainer_of(config: Config, loaded: LoadedModel) -> SFTTrainer:
    return make_sft_trainer(config, loaded, prompting_of(config, loaded), runtime_of(config))
