"""What a run refuses before it reads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from virft.config.schema import Config, DataConfig, RunConfig
from virft.errors import ConfigError
from virft.recipes import train as training
from virft.recipes.train import train
from virft.training.distributed import Ranks


@pytest.mark.parametrize(
    ("variable", "value", "told"),
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
def test_options_of_the_launcher_that_nobody_heeds_are_refused(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    config = Config(data=DataConfig(train="nowhere"), run=RunConfig(dir=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match=f"^accelerate launch {told}"):
        train(config, "grpo", resume=False, say=print)


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ("grpo", r"^grpo\.prompts_per_step is 16 with 17 processes"),
        ("sft", r"^sft\.samples_per_step is 16 with 17 proc"),
    ],
)
def test_a_step_has_something_to_do_for_every_process(
    trainer: Literal["grpo", "sft"], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "ranks", lambda: Ranks(count=17))
    config = Config(data=DataConfig(train="nowhere"), run=RunConfig(dir=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match=told):
        train(config, trainer, resume=False, say=print)
