"""Evaluation of a model on a dataset. Whole runs of it are in the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

from virft.config.schema import Config, DataConfig, RunConfig
from virft.inference.prompting import resolve_prompting
from virft.models.load import load_model
from virft.models.tiny import TINY_NAME
from virft.recipes.evaluate import PredictionSettings, make_validator
from virft.recipes.preflight import validation_stores
from virft.training.runtime import Runtime


def test_without_validation_data_there_is_no_validator() -> None:
    config = Config(data=DataConfig(train="d"), run=RunConfig(dir="r"))
    loaded = load_model(TINY_NAME)
    prompting = resolve_prompting(loaded, template="auto", thinking=False)
    settings = PredictionSettings(prompting=prompting, max_completion_tokens=8, model_name="m")
    stores = validation_stores(config.data, config.mixture)
    assert make_validator(loaded, stores, Path("eval"), settings=settings, runtime=Runtime()) is None
