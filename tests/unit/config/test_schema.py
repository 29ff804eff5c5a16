"""The tree of settings: limits, conflicts, and the page that documents them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from virft.config.schema import (
    _CONDITIONS,
    CompareConfig,
    Config,
    DataConfig,
    GRPOConfig,
    MixtureConfig,
    ModelConfig,
    ParallelConfig,
    PromptConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
    SFTConfig,
    needed_by,
    settings,
    values,
    without_effect,
)
from virft.config.setting import REQUIRED
from virft.errors import ConfigError

ROOT = Path(__file__).parents[3]


def config() -> Config:
    return Config(data=DataConfig(train="data"), run=RunConfig(dir="run"))


def test_defaults_are_those_of_the_paper() -> None:
    known = {setting.key: setting.default for setting in settings()}
    assert known["grpo.steps"] == 200
    assert known["grpo.prompts_per_step"] == 16
    assert known["grpo.group_size"] == 8
    assert known["grpo.learning_rate"] == 1e-6
    assert known["grpo.kl_coef"] == 0.04
    assert known["sampling.temperature"] == 1.0
    assert known["sampling.max_completion_tokens"] == 256


def test_only_data_and_run_folder_must_be_given() -> None:
    required = [setting.key for setting in settings() if setting.default is REQUIRED]
    assert required == ["run.dir", "mixture.NAME.data"]
    with pytest.raises(ConfigError, match=r"^data\.train is missing; expected a folder .* or tables \[mixture\.NAME\]"):
        Config(run=RunConfig(dir="run"))


def test_one_data_set_or_a_mixture_but_not_both() -> None:
    mixture = {"a": MixtureConfig(data="x"), "b": MixtureConfig(data="y", weight=2.0)}
    with pytest.raises(ConfigError, match=r'^data\.train is "data" with a mixture; expected it as data of a table'):
        replace(config(), mixture=mixture)
    with pytest.raises(ConfigError, match=r'^data\.validation is "v" with a mixture; expected it as validation of a'):
        replace(config(), mixture=mixture, data=DataConfig(validation="v"))
    with pytest.raises(ConfigError, match=r"^mixture\.a b: expected a name of letters, digits"):
        replace(config(), data=DataConfig(), mixture={"a b": MixtureConfig(data="x")})
    mixed = replace(config(), data=DataConfig(), mixture=mixture)
    found = {setting.key: value for setting, value in values(mixed)}
    assert (found["mixture.a.data"], found["mixture.b.weight"]) == ("x", 2.0)
    assert "mixture.NAME.data" not in found
    assert "data.validate_every" in without_effect(mixed)
    scored = replace(mixed, mixture={"a": MixtureConfig(data="x", validation="v")})
    assert "data.validate_every" not in without_effect(scored)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GRPOConfig(group_size=1), "grpo.group_size is 1; expected an integer of at least 2"),
        (lambda: GRPOConfig(steps=True), "grpo.steps is true; expected an integer of at least 1"),
        (lambda: GRPOConfig(kl_coef=-0.1), "grpo.kl_coef is -0.1; expected a number of at least 0"),
        (lambda: GRPOConfig(kl_coef=float("nan")), "grpo.kl_coef is nan; expected a number of at least 0"),
        (
            lambda: GRPOConfig(learning_rate=0.0),
            "grpo.learning_rate is 0.0; expected a number above 0 and of at most 1",
        ),
        (lambda: GRPOConfig(loss="mean"), 'grpo.loss is "mean"; expected one of "sequence_mean", "token_mean", "con'),
        (lambda: ModelConfig(max_pixels=0), "model.max_pixels is 0; expected an integer of at least 1"),
        (lambda: RewardConfig(weights={"iou": -1.0}), "reward.weights is {'iou': -1.0}; expected a table of numbers"),
        (
            lambda: RunConfig(dir="run", trackers=("tensorbord",)),  # type: ignore[arg-type]
            'run.trackers is [\'tensorbord\']; expected a list of "tensorboard", "wandb", "trackio"',
        ),
        (lambda: replace(config(), seed=-1), "seed is -1; expected an integer of at least 0"),
    ],
)
def test_a_value_out_of_range_says_key_found_and_allowed(build: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()  # type: ignore[operator]
    assert str(caught.value).startswith(message)


def test_lora_with_an_open_vision_tower_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model.freeze_vision is false with model.train = \"lora\""):
        replace(config(), model=ModelConfig(train="lora", freeze_vision=False))


def test_min_pixels_above_max_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model.min_pixels is 9; expected at most model.max_pixels, which is 4"):
        replace(config(), model=ModelConfig(min_pixels=9, max_pixels=4))


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        ("model.compile is true", {"model": ModelConfig(compile=True)}),
        ('grpo.optimizer is "adamw_8bit"', {"grpo": GRPOConfig(optimizer="adamw_8bit")}),
        ("sft.name_lr_scale is 10", {"sft": SFTConfig(name_lr_scale=10.0)}),
    ],
)
def test_settings_that_zero_does_not_support_are_refused(found: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(config(), parallel=ParallelConfig(strategy="zero3"), **changes)
    assert str(refused.value).startswith(f'{found} with parallel.strategy = "zero3"; expected')
    replace(config(), parallel=ParallelConfig(strategy="fsdp2"), **changes)


def test_an_empty_range_of_scores_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^grpo.min_base_score is 0.5; expected at most grpo.max_base_score, which"):
        replace(config(), grpo=GRPOConfig(min_base_score=0.5, max_base_score=0.4))


def test_a_length_penalty_over_more_tokens_than_a_completion_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^reward.overlong_tokens is 9; expected at most sampling.max_completion_to"):
        replace(config(), reward=RewardConfig(overlong_tokens=9), sampling=SamplingConfig(max_completion_tokens=8))


def test_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^grpo.warmup_steps is 5; expected less than grpo.steps, which is 5"):
        replace(config(), grpo=GRPOConfig(steps=5, warmup_steps=5))


def test_warm_start_leaves_a_step_of_grpo_and_needs_an_optimizer_that_can_start_anew() -> None:
    with pytest.raises(ConfigError, match=r"^grpo.warm_start_steps is 5 and grpo.steps is 5; expected fewer steps"):
        replace(config(), grpo=GRPOConfig(steps=5, warm_start_steps=5))
    with pytest.raises(ConfigError, match=r'^grpo.warm_start_steps with parallel.strategy = "zero2"; expected "ddp"'):
        replace(config(), grpo=GRPOConfig(warm_start_steps=5), parallel=ParallelConfig(strategy="zero2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vllm_mode": "colocated", "vllm_servers": 1}, 'vllm_mode is "colocated" with vllm_devices or vllm_servers'),
        ({"vllm_devices": (1, 2), "vllm_servers": 2}, "vllm_servers is 2 with sampling.vllm_devices"),
        ({"vllm_devices": (1, 1)}, "vllm_devices lists a GPU twice"),
        ({"vllm_devices": (1, 2, 3), "vllm_tensor_parallel": 2}, "vllm_devices has 3 GPUs; expected a multiple of"),
    ],
)
def test_places_of_vllm_servers_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config(), sampling=SamplingConfig(engine="vllm", **changes))


def test_merged_sampling_weights_are_refused_for_a_base_in_4_bits() -> None:
    quantized = ModelConfig(train="lora", load_in_4bit=True, dtype="bfloat16")
    with pytest.raises(ConfigError, match=r'^sampling.weights is "merged" with model.load_in_4bit = true'):
        replace(config(), model=quantized, sampling=SamplingConfig(weights="merged"))
    assert "sampling.importance_cap" in without_effect(replace(config(), model=quantized))


def test_settings_without_effect_depend_on_other_settings() -> None:
    assert set(without_effect(config())) == {
        "model.lora_rank",
        "model.lora_alpha",
        "sampling.vllm_mode",
        "sampling.vllm_gpu_memory",
        "sampling.vllm_devices",
        "sampling.vllm_servers",
        "sampling.vllm_tensor_parallel",
        "sampling.vllm_timeout_minutes",
        "sampling.vllm_restarts",
        "sampling.importance_cap",
        "sampling.weights",
        "grpo.vision_lr_scale",
        "grpo.projector_lr_scale",
        "sft.vision_lr_scale",
        "sft.projector_lr_scale",
        "grpo.clip_range",
        "grpo.demonstration_coef",
        "grpo.demonstration_coef_end",
        "grpo.demonstration_fade",
        "grpo.demonstration_in_mean",
        "grpo.near_right",
        "sft.base_completions",
        "sft.curated_above",
        "sft.rejection_above",
        "sft.rejection_keep",
        "reward.segmenter_cache_gib",
        "compare.warm_start_frac",
        "data.validate_every",
        "run.keep_best",
        "run.patience",
        "run.tracker_images_every",
        "parallel.offload_optimizer",
        "parallel.shard_size",
    }
    busy = replace(
        config(),
        model=ModelConfig(train="lora"),
        sampling=SamplingConfig(engine="vllm"),
        grpo=GRPOConfig(updates_per_batch=2, demonstrations="loss"),
        data=DataConfig(train="a", validation="b"),
        run=RunConfig(dir="run", save_every=0, trackers=("wandb",)),
        reward=RewardConfig(segmenter="owner/name"),
    )
    rates = {f"{section}.{part}_lr_scale" for section in ("grpo", "sft") for part in ("name", "vision", "projector")}
    of_systems = {"sft.base_completions", "sft.curated_above", "sft.rejection_above", "sft.rejection_keep"}
    of_systems |= {"compare.warm_start_frac"}
    others = {"sampling.prompts_per_batch", "sampling.cuda_graph", "sampling.weights"}
    others |= {"run.keep_checkpoints", "run.save_dtype", "parallel.offload_optimizer", "parallel.shard_size"}
    others |= of_systems
    in_groups = {"grpo.demonstration_in_mean", "grpo.near_right"}
    assert set(without_effect(busy)) == rates | others | in_groups
    grouped = set(without_effect(replace(busy, grpo=GRPOConfig(updates_per_batch=2, demonstrations="group"))))
    coefficients = {f"grpo.demonstration_{name}" for name in ("coef", "coef_end", "fade")}
    assert grouped == rates | others | coefficients
    systems = replace(busy, compare=CompareConfig(systems=("curated_sft", "rejection_sft", "sft_rft")))
    assert of_systems & set(without_effect(systems)) == {"sft.base_completions"}
    rejection = without_effect(replace(busy, sft=SFTConfig(targets="rejection", base_completions="runs/x")))
    assert of_systems & set(rejection) == {"sft.curated_above", "compare.warm_start_frac"}
    half = replace(busy, model=ModelConfig(dtype="bfloat16"))
    assert {"model.tf32", "run.save_dtype"} & set(without_effect(half)) == {"model.tf32"}
    assert "parallel.offload_optimizer" not in without_effect(replace(busy, parallel=ParallelConfig(strategy="zero2")))
    assert "parallel.shard_size" not in without_effect(replace(busy, parallel=ParallelConfig(strategy="fsdp2")))


def test_weights_of_4_bits_are_for_adapters() -> None:
    with pytest.raises(ConfigError, match="weights of 4 bits cannot be trained"):
        replace(config(), model=ModelConfig(load_in_4bit=True))
    assert replace(config(), model=ModelConfig(load_in_4bit=True, train="lora")).model.load_in_4bit
    with pytest.raises(ConfigError, match=r"^model.compile is true with model.load_in_4bit = true"):
        replace(config(), model=ModelConfig(load_in_4bit=True, train="lora", compile=True))
    four_bits = replace(config(), model=ModelConfig(load_in_4bit=True, train="lora"))
    assert four_bits.parallel.strategy == "ddp"
    for strategy in ("fsdp2", "zero2", "zero3"):
        refused = f'^model.load_in_4bit is true with parallel.strategy = "{strategy}"; expected "ddp"'
        with pytest.raises(ConfigError, match=refused):
            replace(four_bits, parallel=ParallelConfig(strategy=strategy))


def test_conditions_are_printed_for_the_settings_that_need_them() -> None:
    needing = {setting.key for setting in settings() if needed_by(setting.key)}
    assert needing == {key for one in _CONDITIONS for key in one.keys}
    assert needed_by("grpo.clip_range") == "grpo.updates_per_batch is above 1"


def test_every_setting_has_a_value_and_a_help_text() -> None:
    for setting, value in values(config()):
        setting.check(value)
        assert setting.help.endswith((".", ")."))


def test_the_page_of_settings_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_config_docs", ROOT / "scripts" / "make_config_docs.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == script.config_page(), "run python scripts/make_config_docs.py"
    for setting in settings():
        assert f"| `{setting.key}` |" in page
    schema = (ROOT / "docs" / "virft.schema.json").read_text(encoding="utf-8")
    assert schema == script.schema_text(), "run python scripts/make_config_docs.py"


@pytest.mark.parametrize(
    ("default", "parts", "expected"),
    [
        (True, (), True),
        (False, (True,), True),
        (True, (False, False), False),
        # one dataset has the mode of [prompt]
        (True, (None, True), True),
        # the datasets disagree
        (False, (True, None), False),
        (True, (True, False), True),
    ],
)
def test_predictions_have_the_thinking_mode_that_the_datasets_agree_on(
    default: bool, parts: tuple[bool | None, ...], expected: bool
) -> None:
    mixture = {f"part{i}": MixtureConfig(data="d", thinking=thinking) for i, thinking in enumerate(parts)}
    data = DataConfig() if parts else DataConfig(train="d")
    config = Config(data=data, mixture=mixture, prompt=PromptConfig(thinking=default), run=RunConfig(dir="r"))
    assert config.prediction_thinking is expected


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        ('sampling.engine is "vllm"', {"sampling": SamplingConfig(engine="vllm")}),
        ("sampling.max_staleness is 1", {"sampling": SamplingConfig(max_staleness=1)}),
        ("model.compile is true", {"model": ModelConfig(compile=True)}),
        ('parallel.strategy is "fsdp2"', {"parallel": ParallelConfig(strategy="fsdp2")}),
        ('grpo.demonstrations is "loss"', {"grpo": GRPOConfig(demonstrations="loss")}),
    ],
)
def test_settings_that_zoom_calls_do_not_support_are_refused(found: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(config(), prompt=PromptConfig(zoom_calls=True), **changes)
    assert str(refused.value).startswith(f"{found}, which is not supported with prompt.zoom_calls = true; expected its")
