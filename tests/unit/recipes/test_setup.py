"""Settings become the arguments of the parts that do not depend on the training method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import virft.inference.prompting
from factories import sample
from run_parts import load_model_of, make_config, prompting_of, runtime_of
from virft.config.schema import (
    AugmentConfig,
    DataConfig,
    MixtureConfig,
    ModelConfig,
    MonitorsConfig,
    ParallelConfig,
    PromptConfig,
    RewardConfig,
    RunConfig,
)
from virft.data.sources.scenes import write_few_shot_scenes
from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.inference.prompting import resolve_flag, resolve_template
from virft.models.load import LoadedModel
from virft.models.policy import make_policy
from virft.recipes import setup
from virft.recipes.preflight import check_run
from virft.recipes.reward_rule import make_reward_rule
from virft.recipes.setup import (
    build_augmenter,
    check_run_prompts,
    loop_settings,
    make_grader,
    make_runtime,
    make_trackers,
    reward_parts,
)
from virft.tasks.grader import Grader
from virft.training.distributed import Ranks
from virft.training.monitors import RewardParts
from virft.training.runtime import Runtime


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model_of(make_config())


def trained(loaded: LoadedModel) -> set[str]:
    return {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}


def test_the_vision_tower_is_frozen_unless_configured_otherwise(tiny: LoadedModel) -> None:
    assert not any(name.startswith("model.visual.") for name in trained(tiny))
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in trained(tiny)
    whole = load_model_of(make_config(model=ModelConfig(freeze_vision=False)))
    assert "model.visual.patch_embed.proj.weight" in trained(whole)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_trained_weights_are_float32_in_any_compute_dtype(train: Any) -> None:
    loaded = load_model_of(make_config(model=ModelConfig(train=train, dtype="bfloat16")))
    found = {p.dtype for p in loaded.model.parameters() if p.requires_grad}
    assert found == {torch.float32}
    frozen = {name: p.dtype for name, p in loaded.model.named_parameters() if "visual" in name and p.ndim == 2}
    assert set(frozen.values()) == {torch.bfloat16}, "linear layers of the tower"
    convolution = loaded.model.get_parameter("model.visual.patch_embed.proj.weight").dtype
    assert convolution == (torch.bfloat16 if train == "lora" else torch.float32)
    assert (loaded.card["dtype"], loaded.card["load_in_4bit"]) == ("bfloat16", False)


def test_auto_on_a_cpu_is_float32_and_a_resumed_run_retains_its_precision(tmp_path: Path) -> None:
    model, parallel = ModelConfig(), ParallelConfig()
    assert make_runtime(model, parallel).dtype == torch.float32
    assert make_runtime(model, parallel, resumed=tmp_path).dtype == torch.float32  # holds no run
    (tmp_path / "card.json").write_text('{"dtype": "bfloat16"}')
    assert make_runtime(model, parallel, resumed=tmp_path).dtype == torch.bfloat16
    assert make_runtime(ModelConfig(dtype="float32"), parallel, resumed=tmp_path).dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "tf32", "expected"), [("cuda", True, ["high"]), ("cuda", False, ["highest"]), ("cpu", True, [])]
)
def test_tf32_is_for_gpus(device: str, tf32: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    runtime = Runtime(ranks=Ranks(device=torch.device(device)))
    monkeypatch.setattr(setup, "start_runtime", lambda **options: runtime)
    make_runtime(ModelConfig(dtype="float32", tf32=tf32), ParallelConfig())
    assert chosen == expected


@pytest.mark.parametrize(("max_pixels", "warns"), [(None, True), (401408, False)])
def test_images_of_very_many_tokens_are_a_warning(
    max_pixels: int | None, warns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_few_shot_scenes(tmp_path / "d", task="detection", classes=["dog"], shots=1, seed=0, size=112)
    config = make_config(model=ModelConfig(max_pixels=max_pixels), data=DataConfig(train=str(tmp_path / "d")))
    loaded, run = load_model_of(config), check_run(config, "grpo")
    prompting = prompting_of(config, loaded)
    assert check_run_prompts(loaded, prompting, run) == []
    monkeypatch.setattr(virft.inference.prompting, "MANY_IMAGE_TOKENS", 3)
    warnings = dict(check_run_prompts(loaded, prompting, run))
    assert ("image_tokens" in warnings) is warns
    if warns:
        # 112 x 112 pixels are 4 x 4 tokens of 28 x 28
        text = (
            "has 16 tokens, and model.max_pixels is not set: memory and time of a step grow with them; expected a limit"
        )
        assert text in warnings["image_tokens"]


def test_adapters_have_the_configured_rank() -> None:
    loaded = load_model_of(make_config(model=ModelConfig(train="lora", lora_rank=3, lora_alpha=6)))
    found = {p.shape[0] for name, p in loaded.model.named_parameters() if "lora_A" in name}
    assert found == {3}


def test_adapters_are_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = load_model_of(replace(make_config(model=ModelConfig(train="lora", lora_rank=2)), seed=seed)).model
        return next(one.detach() for name, one in model.named_parameters() if "lora_A" in name)

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


@pytest.mark.parametrize("is_on", [False, True])
def test_gradient_checkpointing_follows_the_settings(is_on: bool) -> None:
    loaded = load_model_of(make_config(model=ModelConfig(train="lora", gradient_checkpointing=is_on)))
    assert loaded.model.is_gradient_checkpointing is is_on


def test_image_placeholders_are_never_sampled(tiny: LoadedModel) -> None:
    rules = make_policy(tiny, temperature=0.7).rules
    assert rules.temperature == 0.7
    assert set(rules.forbidden_ids) == {tiny.model.config.image_token_id, tiny.model.config.video_token_id}


def test_rewards_follow_the_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def one(reading, target, context):\n    return 1.0\n")
    settings = RewardConfig(
        preset="paper", weights={"format": 0.5}, iou_threshold=0.25, extra=(f"{tmp_path / 'mine.py'}:one",)
    )
    rule = make_reward_rule(settings)
    assert (rule.preset, rule.weight("format"), rule.weight("one"), rule.iou_threshold) == ("paper", 0.5, 1.0, 0.25)
    assert [function.__name__ for function in rule.extra] == ["one"]  # type: ignore[attr-defined]


def test_an_invalid_reward_is_an_error_with_its_section() -> None:
    with pytest.raises(ConfigError, match=r"^reward\.weights: iuo is no part"):
        make_reward_rule(RewardConfig(weights={"iuo": 1.0}))


def grader_of(reward: RewardConfig, **mixture: MixtureConfig) -> Grader:
    return make_grader(reward, PromptConfig(), mixture, BoxSpace.RELATIVE_1000)


def test_the_loop_follows_the_settings() -> None:
    run, monitors = RunConfig(dir="r", save_every=4, keep_checkpoints=5, log_every=6), MonitorsConfig(window=3)
    parts = reward_parts(grader_of(RewardConfig(weights={"iou": 2.0})), ["detection"])
    loop = loop_settings(run, monitors, num_steps=7, validate_every=0, parts=parts)
    assert loop.monitors == monitors
    assert loop.parts == RewardParts(accuracy={"iou": (0.0, 1.0)}, weights={"iou": 2.0})
    assert loop.num_steps == 7
    assert (loop.save_every, loop.keep_checkpoints, loop.log_every, loop.validate_every) == (4, 5, 6, 0)


def test_samples_are_augmented_only_if_configured() -> None:
    assert build_augmenter(AugmentConfig(), seed=0) is None
    augment = build_augmenter(AugmentConfig(colour_jitter=0.5), seed=0)
    assert augment is not None
    drawn = augment(sample(), 3, 1).augmentation
    assert drawn is not None
    assert drawn.contrast != 1
    assert not drawn.horizontal_flip


def test_trackers_get_settings_as_plain_values(tmp_path: Path) -> None:
    settings = make_config(run=RunConfig(dir="r", trackers=("wandb",)))
    logged: dict[str, Any] = make_trackers(settings, tmp_path, runtime_of(settings))._config
    assert (logged["grpo.steps"], logged["model.freeze_vision"], logged["run.trackers"]) == (200, True, "['wandb']")
    assert logged["data.validation"] == "not set"
    assert all(isinstance(value, str | int | float | bool) for value in logged.values())


def test_the_prompting_of_a_run_is_in_the_card_of_its_model(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Where is {query}?\n")
    settings = make_config(prompt=PromptConfig(template=str(tmp_path / "mine.txt"), thinking=True))
    loaded = load_model_of(settings)
    assert prompting_of(settings, loaded).template == "Where is {query}?"
    assert (loaded.card["prompt_template"], loaded.card["thinking"]) == ("Where is {query}?", True)
    assert resolve_template(loaded, "auto") == "Where is {query}?"
    assert [resolve_flag(loaded, "thinking", setting) for setting in (None, True, False)] == [True, True, False]
    plain = load_model_of(make_config())
    prompting_of(make_config(), plain)
    assert (plain.card["prompt_template"], plain.card["thinking"]) == ("short", False)


@pytest.mark.parametrize(("own", "expected"), [((True, True), True), ((True, None), False), ((None, None), False)])
def test_datasets_of_a_mixture_that_agree_on_thinking_decide_the_card(
    tiny: LoadedModel, own: tuple[bool | None, bool | None], expected: bool
) -> None:
    mixture = {name: MixtureConfig(data=name, thinking=one) for name, one in zip("ab", own, strict=True)}
    settings = make_config(data=DataConfig(), mixture=mixture)
    assert prompting_of(settings, tiny).card["thinking"] is expected


def test_accurate_parts_are_those_of_the_tasks_and_custom_rewards(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def one(reading, target, context):\n    return 1.0\n")
    reward = RewardConfig(extra=(f"{tmp_path / 'mine.py'}:one",))
    assert reward_parts(grader_of(reward), ["detection", "grounding", "counting"]).accuracy == {
        "iou": (0.0, 1.0),
        "giou": (0.0, 1.0),
        "count": (0.0, 1.0),
        "one": (-1.0, 1.0),
    }
    mixed = grader_of(RewardConfig(), a=MixtureConfig(data="a", preset="paper"))
    assert reward_parts(mixed, ["grounding"]).accuracy == {"giou": (0.0, 2.0)}


@pytest.mark.parametrize(("end", "checked"), [(None, True), (0.25, True), (0.75, False)])
def test_a_part_whose_threshold_rises_is_not_expected_to_rise(end: float | None, checked: bool) -> None:
    found = reward_parts(grader_of(RewardConfig(iou_threshold_end=end)), ["detection", "classification"]).accuracy
    assert ("iou" in found, "label" in found) == (checked, True)
