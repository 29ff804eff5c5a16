"""Steps of GRPO and SFT, validation and prediction with the built-in model on the device, compared with a CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor

from fake_cuda import CUDA, FakeCUDA, to_cpu
from run_parts import prompting_of
from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig, SamplingConfig, SFTConfig
from virft.data.sources.scenes import write_few_shot_scenes
from virft.data.store import Store
from virft.generation.hf_generator import HFGenerator
from virft.inference.model import Model
from virft.inference.queries import make_query
from virft.models.load import load_as_trained, load_model
from virft.models.precision import resolve_dtype
from virft.models.tiny import IMAGE_SIZE
from virft.models.vision import FeatureCache, ImageFeatures
from virft.recipes.evaluate import PredictionSettings, make_validator, predict_and_score
from virft.recipes.setup import load_for_training
from virft.recipes.trainers import make_grpo_trainer, make_sft_trainer
from virft.scenes.assets import class_names
from virft.training.distributed import Ranks
from virft.training.runtime import Runtime
from virft.training.step import StepReport

CPU = torch.device("cpu")
RATE = 1e-4
NUM_TOKENS = 48
"""Enough for completions that end by themselves: equal rewards would give no gradient."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("scenes") / "train"
    write_few_shot_scenes(folder, task="detection", classes=class_names("base")[:2], shots=2, seed=0, size=IMAGE_SIZE)
    return Store(folder)


class Step(NamedTuple):
    """Report of a training step, the trained weights before and after it, and the scores of a validation."""

    report: StepReport
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    scores: dict[str, float]

    @property
    def largest_change(self) -> float:
        return max(float((self.after[name] - one).abs().max()) for name, one in self.before.items())


def rehearse(method: str, store: Store, out: Path, device: torch.device, **model: Any) -> Step:
    """Take one training step, then validate on the same data."""
    config = Config(
        model=ModelConfig(**model),
        data=DataConfig(train=str(store.folder)),
        sampling=SamplingConfig(max_completion_tokens=NUM_TOKENS),
        grpo=GRPOConfig(steps=2, prompts_per_step=2, group_size=4, learning_rate=RATE, kl_coef=0.04),
        sft=SFTConfig(steps=2, samples_per_step=2, learning_rate=RATE),
        run=RunConfig(dir=str(out)),
    )
    runtime = Runtime(ranks=Ranks(device=device), dtype=getattr(torch, resolve_dtype(config.model.dtype, device)))
    loaded = load_for_training(config.model, runtime, seed=config.seed)
    prompting = prompting_of(config, loaded)
    make_trainer: Any = {"grpo": make_grpo_trainer, "sft": make_sft_trainer}[method]
    trainer = make_trainer(config, loaded, prompting, runtime)

    def weights() -> dict[str, Tensor]:
        return {name: to_cpu(one).clone() for name, one in trainer.policy.named_parameters() if one.requires_grad}

    before = weights()
    report = trainer.step(0, [store[0], store[1]])
    settings = PredictionSettings(prompting=prompting, max_completion_tokens=NUM_TOKENS, model_name="m")
    validate = make_validator(loaded, {"": store}, out, settings=settings, runtime=runtime)
    assert validate is not None
    return Step(report, before, weights(), dict(validate(1)))


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_a_step_in_float32_equals_that_on_a_cpu(method: str, store: Store, tmp_path: Path) -> None:
    expected = rehearse(method, store, tmp_path / "cpu", CPU)
    with FakeCUDA():
        found = rehearse(method, store, tmp_path / "cuda", CUDA, dtype="float32")
    assert found.report.metrics == pytest.approx(expected.report.metrics, rel=1e-3, abs=1e-5)
    assert found.largest_change == pytest.approx(RATE, rel=0.1)
    for name, one in expected.after.items():
        # The first step of AdamW is the sign of the gradient: where it is 0 but for rounding, the sign is random. So it
        # is for some biases of keys, of which a layer has few.
        differs = (found.after[name] - one).abs() > RATE / 100
        assert differs.sum() <= max(2, differs.numel() // 100), name
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)


CASES: dict[str, dict[str, Any]] = {
    "full": {"gradient_checkpointing": True},
    "tower": {"gradient_checkpointing": True, "freeze_vision": False},
    "adapters": {"gradient_checkpointing": True, "train": "lora", "lora_rank": 4},
}


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    """For each sampling in turn: if autocast is on, and its dtype."""
    found: list[tuple[bool, str]] = []
    plain = HFGenerator.generate

    def generate(*arguments: Any, **options: Any) -> Any:
        found.append((torch.is_autocast_enabled("cuda"), str(torch.get_autocast_dtype("cuda"))))
        return plain(*arguments, **options)

    monkeypatch.setattr(HFGenerator, "generate", generate)
    return found


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_auto_is_bfloat16_in_training_and_validation(
    method: str, store: Store, tmp_path: Path, gpu: FakeCUDA, sampled: list[tuple[bool, str]]
) -> None:
    found = rehearse(method, store, tmp_path, CUDA)
    assert {one.dtype for one in found.after.values()} == {torch.float32}
    # the validation is the last; SFT samples nothing else
    assert len(sampled) == {"grpo": 2, "sft": 1}[method]
    assert set(sampled) == {(True, "torch.bfloat16")}


def test_predictions_are_bfloat16_by_default(
    store: Store, tmp_path: Path, gpu: FakeCUDA, sampled: list[tuple[bool, str]]
) -> None:
    loaded = load_as_trained("virft-tiny", device=CUDA)
    assert {one.dtype for one in loaded.model.parameters()} == {torch.bfloat16}
    model = Model(loaded, device=CUDA, max_completion_tokens=4)
    image = Image.new("RGB", (112, 112), (200, 120, 40))
    answer = model.ask(image, "fox")
    *_, streamed = model.stream(make_query(image, "fox", "detection"))
    assert streamed.completion == answer.completion
    prompting = prompting_of(Config(data=DataConfig(train="d"), run=RunConfig(dir="r")), loaded)
    settings = PredictionSettings(prompting=prompting, max_completion_tokens=4, model_name="virft-tiny")
    runtime = Runtime(ranks=Ranks(device=CUDA), dtype=torch.bfloat16)
    predict_and_score(loaded, store, tmp_path, settings=settings, runtime=runtime)
    assert set(sampled) == {(True, "torch.bfloat16")}
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert card["settings"]["dtype"] == "bfloat16"
    exact = load_as_trained("virft-tiny", dtype="float32", device=CUDA)
    assert {one.dtype for one in exact.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", CASES)
def test_a_step_in_bfloat16(name: str, store: Store, tmp_path: Path, gpu: FakeCUDA) -> None:
    found = rehearse("grpo", store, tmp_path, CUDA, dtype="bfloat16", **CASES[name])
    metrics = found.report.metrics
    assert all(map(math.isfinite, [*metrics.values(), *found.scores.values()]))
    assert metrics["grad_norm"] > 0
    # trained weights remain float32, and the step changes them
    assert {one.dtype for one in found.after.values()} == {torch.float32}
    assert found.largest_change == pytest.approx(RATE, rel=0.1)
    vision = [key for key, one in found.after.items() if "visual" in key and not torch.equal(one, found.before[key])]
    assert bool(vision) is (name == "tower")
    # sampler and policy are the same weights: the first update is on-policy but for rounding
    assert abs(metrics.get("sampler_gap_mean", 0.0)) < 0.005
    assert abs(metrics.get("sampler_gap", 0.0)) < 0.1  # the largest of all tokens


def test_predictions_equal_those_on_a_cpu(store: Store, tmp_path: Path) -> None:
    def predict(device: torch.device, out: Path) -> str:
        loaded = load_model("virft-tiny")
        prompting = prompting_of(Config(data=DataConfig(train="d"), run=RunConfig(dir="r")), loaded)
        settings = PredictionSettings(prompting=prompting, max_completion_tokens=32, model_name="virft-tiny")
        predict_and_score(loaded, store, out, settings=settings, runtime=Runtime(ranks=Ranks(device=device)))
        return (out / "predictions.jsonl").read_text(encoding="utf-8")

    expected = predict(CPU, tmp_path / "cpu")
    with FakeCUDA():
        found = predict(CUDA, tmp_path / "cuda")
    assert _texts(found) == _texts(expected)


def _texts(lines: str) -> list[str]:
    return [json.loads(line)["text"] for line in lines.splitlines()]


def test_cached_features_are_copied_from_main_memory_without_a_wait(gpu: FakeCUDA) -> None:
    values = torch.arange(6.0).view(2, 3)
    made = ImageFeatures(tokens=(values.to(CUDA),), deep=((values.to(CUDA),),))
    cache = FeatureCache()
    waits = gpu.waits.total()
    assert cache.get("a", lambda: made) is made
    stored = cache.get("a", lambda: made)
    assert {one.device.type for one in (*stored.tokens, *stored.deep[0])} == {"cpu"}
    found = stored.to(CUDA)
    assert found.tokens[0].device == CUDA
    assert gpu.waits.total() == waits
    assert torch.equal(to_cpu(found.deep[0][0]), values)
