"""A model's answers to a data set. Whole runs of it are in the end-to-end tests."""

from __future__ import annotations

from virft.config.schema import Config, DataConfig, RunConfig
from virft.models.load import load_model
from virft.models.tiny import TINY_NAME
from virft.recipes.evaluate import validator


def test_without_validation_data_there_is_no_validator() -> None:
    config = Config(data=DataConfig(train="d"), run=RunConfig(dir="r"))
    assert validator(config, load_model(TINY_NAME)) is None
