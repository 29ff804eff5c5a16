"""Errors of a run before it reads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from virft.config.schema import Config, DataConfig, RunConfig
from virft.errors import ConfigError
from virft.recipes import train as training
from virft.recipes.train import run_training
from virft.training.distributed import Ranks
from virft.training.runtime import Runtime


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "ACCELERATE_USE_DEEPSPEED",
            "true",
            "--use_deepspeed has no effect here; expected none, and",
        ),
        ("ACCELERATE_USE_FSDP", "true", "--use_fsdp has no effect here; expected none, and"),
        (
            "ACCELERATE_MIXED_PRECISION",
            "bf16",
            "--mixed_precision bf16 has no effect here; expected no, and",
        ),
    ],
)
def test_options_of_the_launcher_without_effect_are_refused(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    config = Config(data=DataConfig(train="nowhere"), run=RunConfig(dir=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match=f"^accelerate launch {message}"):
        run_training(config, "grpo", resume=False, log=print)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ("grpo", r"^grpo\.prompts_per_step is 16 with 17 processes"),
        ("sft", r"^sft\.samples_per_step is 16 with 17 proc"),
    ],
)
def test_a_step_has_a_sample_for_every_rank(
    trainer: Literal["grpo", "sft"], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "make_runtime", lambda *sections, resumed: Runtime(ranks=Ranks(count=17)))
    config = Config(data=DataConfig(train="nowhere"), run=RunConfig(dir=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match=message):
        run_training(config, trainer, resume=False, log=print)
