"""Warm start: the first steps of a GRPO run are those of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factories import detections, sample, save_image
from run_parts import grpo_trainer_of, load_model_of, make_config, sft_trainer_of
from virft.config.schema import Config, GRPOConfig, ModelConfig, SamplingConfig, SFTConfig
from virft.models.load import LoadedModel
from virft.types import Sample

WARM = GRPOConfig(
    steps=5, warm_start_steps=2, prompts_per_step=2, group_size=4, learning_rate=1e-3, kl_coef=0.0, max_grad_norm=1.0
)
CONFIG = make_config(
    grpo=WARM,
    sft=SFTConfig(steps=2, samples_per_step=2, learning_rate=3e-4, schedule="linear", max_grad_norm=1.0),
    sampling=SamplingConfig(max_completion_tokens=24),
)


MODELS = {
    "all weights": ModelConfig(),
    "adapters": ModelConfig(train="lora", lora_rank=4),
    "checkpointing": ModelConfig(gradient_checkpointing=True),
}


@pytest.fixture(params=MODELS)
def config(request: pytest.FixtureRequest) -> Config:
    return replace(CONFIG, model=MODELS[request.param])


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    path = save_image(tmp_path / "a.png", (112, 112))
    target = detections((10, 20, 60, 80))
    return [sample(target, id=name, image=str(path), size=(112, 112), query=name) for name in ("cat", "dog")]


def weights(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in loaded.model.named_parameters() if one.requires_grad}


def after(config: Config, samples: list[Sample], *numbers: int, start: dict[str, Tensor] | None = None) -> LoadedModel:
    loaded = load_model_of(config)
    if start is not None:
        loaded.model.load_state_dict(start, strict=False)
    trainer = grpo_trainer_of(config, loaded)
    for number in numbers:
        trainer.step(number, samples)
    return loaded


def test_steps_of_the_warm_start_are_those_of_sft(config: Config, samples: list[Sample]) -> None:
    warm = weights(after(config, samples, 0, 1))
    loaded = load_model_of(config)
    trainer = sft_trainer_of(config, loaded)
    for number in (0, 1):
        trainer.step(number, samples)
    for name, one in weights(loaded).items():
        assert torch.equal(one, warm[name]), name


def test_grpo_begins_from_the_weights_of_the_warm_start_without_its_optimizer_state(
    config: Config, samples: list[Sample]
) -> None:
    # a demonstration teaches, whatever is sampled
    config = replace(config, grpo=replace(config.grpo, demonstrations="loss"))
    whole = weights(after(config, samples, 0, 1, 2, 3))
    start = weights(after(config, samples, 0, 1))
    anew = weights(after(config, samples, 2, 3, start=start))
    assert any(not torch.equal(whole[name], start[name]) for name in start)
    for name, one in anew.items():
        assert torch.equal(one, whole[name]), name


def test_a_step_of_the_warm_start_samples_nothing_and_names_its_loss(samples: list[Sample]) -> None:
    trainer = grpo_trainer_of(CONFIG, load_model_of(CONFIG))
    report = trainer.step(0, samples)
    assert report.rollout_record is None
    assert {"demonstration_loss", "num_tokens", "learning_rate"} <= report.metrics.keys()
    assert {"loss", "reward", "kl"}.isdisjoint(report.metrics)
    assert "sampling" not in report.timings


def test_both_schedules_and_the_progress_of_rewards_have_their_own_steps() -> None:
    trainer = grpo_trainer_of(CONFIG, load_model_of(CONFIG))
    assert trainer.warm_start is not None
    # linear, 2 steps from 3e-4; then 3 steps from 1e-3
    assert [trainer.warm_start.learning_rate_at(n) for n in (0, 1)] == pytest.approx([3e-4, 1.5e-4])
    assert [trainer.learning_rate_at(n) for n in (2, 3, 4)] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    assert [trainer._step_frac(n) for n in (0, 2, 3, 4)] == [0.0, 0.0, 0.5, 1.0]


def test_without_a_warm_start_there_is_no_supervised_trainer() -> None:
    config = replace(CONFIG, grpo=replace(WARM, warm_start_steps=0))
    assert grpo_trainer_of(config, load_model_of(config)).warm_start is None
