"""Settings that a config does not set are chosen by model, training and data; explicit ones always win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from virft.config.fitting import FITTED_KEYS, Facts, FittedMethod, fitted_learning_rate, fitted_values
from virft.config.schema import Method, without_effect
from virft.config.toml_file import LoadedConfig, complete, load_config, parse

CONFIGS = Path(__file__).parents[3] / "configs"
SMALLEST = 'data.train = "d"\nrun.dir = "r"\n'
TINY = Facts(num_parameters=7_085_056, num_samples=60, num_images=43, tasks=frozenset({"detection"}))
LARGE = replace(TINY, num_parameters=2_208_985_600, max_pixels=12_845_056)


def fitted(text: str = "", facts: Facts = TINY, method: FittedMethod = "grpo") -> LoadedConfig:
    loaded = parse(SMALLEST + text, origin="mine.toml")
    return complete(loaded, fitted_values(loaded.config, loaded.explicit, facts, method=method))


def fitted_keys(loaded: LoadedConfig) -> set[str]:
    return {key for key, origin in loaded.origins.items() if origin.startswith("fitted: ")}


@pytest.mark.parametrize(
    ("method", "train", "num_parameters", "rate"),
    [
        ("grpo", "full", 7_085_056, 3e-4),
        ("sft", "full", 7_085_056, 3e-4),
        ("grpo", "lora", 7_085_056, 1e-3),
        ("grpo", "full", 500_000_000, 5e-6),
        ("grpo", "full", 2_208_985_600, 1e-6),
        ("grpo", "full", None, 1e-6),
        ("grpo", "lora", 2_208_985_600, 1e-5),
        ("grpo", "lora", 500_000_000, 5e-5),
        ("sft", "full", 7_000_000_000, 1e-5),
        ("sft", "lora", 7_000_000_000, 1e-4),
    ],
)
def test_learning_rate_falls_with_size_and_is_ten_times_as_large_for_lora(
    method: Method, train: str, num_parameters: int | None, rate: float
) -> None:
    assert train in ("full", "lora")
    found = fitted_learning_rate(method, "lora" if train == "lora" else "full", num_parameters)
    assert found.value == rate
    assert found.source


def test_smallest_config_of_the_built_in_model_has_another_rate_and_threshold() -> None:
    config = fitted().config
    assert (config.grpo.learning_rate, config.grpo.name_lr_scale, config.grpo.kl_coef) == (3e-4, 10.0, 0.0)
    assert (config.reward.iou_threshold, config.reward.iou_threshold_end) == (0.0, 0.5)
    assert config.reward.weights == {"confidence": 0.1}
    assert (config.augment.resized_crop, config.augment.horizontal_flip, config.augment.colour_jitter) == (
        0.35,
        True,
        0.3,
    )


def test_large_model_keeps_the_values_of_the_paper() -> None:
    loaded = fitted(facts=replace(LARGE, num_images=500, num_samples=500))
    assert fitted_keys(loaded) == {"grpo.learning_rate", "model.max_pixels"}
    assert (loaded.config.grpo.learning_rate, loaded.config.model.max_pixels) == (1e-6, 401408)
    assert loaded.config.reward.iou_threshold == 0.5


def test_unknown_model_and_data_change_nothing() -> None:
    loaded = fitted(facts=Facts())
    assert loaded.config == parse(SMALLEST, origin="x").config
    assert fitted_keys(loaded) == {"grpo.learning_rate"}


def test_origins_name_the_file_the_command_line_the_default_and_the_reason() -> None:
    loaded = parse(SMALLEST + "grpo.steps = 7", origin="mine.toml", overrides=["grpo.group_size=4", "seed=3"])
    done = complete(loaded, fitted_values(loaded.config, loaded.explicit, TINY, method="grpo"))
    assert done.origins["grpo.steps"] == "mine.toml"
    assert done.origins["grpo.group_size"] == "command line"
    assert done.origins["grpo.loss"] == "default"
    assert done.origins["grpo.learning_rate"] == (
        "fitted: 7.1M parameters, all weights trained (tuned with virft-tiny, docs/reproducing.md)"
    )
    assert done.origins["reward.weights.confidence"] == done.origins["reward.weights"]
    assert next(iter(done.origins)) == "seed"
    assert done.explicit == {"data.train", "run.dir", "grpo.steps", "grpo.group_size", "seed"}


EXPLICIT = """
augment = { resized_crop = 0.0, horizontal_flip = false, colour_jitter = 0.0 }
reward = { iou_threshold = 0.5, weights = { confidence = 1 } }
grpo = { steps = 3, learning_rate = 1e-6, name_lr_scale = 1.0, kl_coef = 0.04 }
"""


def test_explicit_settings_win_even_if_they_are_the_defaults() -> None:
    loaded = fitted(EXPLICIT, replace(TINY, num_samples=100_000))
    assert fitted_keys(loaded) == set()
    assert loaded.config.reward.iou_threshold_end is None


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ('model.train = "lora"', {"grpo.name_lr_scale"}),
        ('parallel.strategy = "zero2"', {"grpo.name_lr_scale"}),
        ('reward.preset = "paper"', {"reward.iou_threshold", "reward.iou_threshold_end", "reward.weights.confidence"}),
        ("reward.weights.format = 2", {"reward.weights.confidence"}),
        ("reward.iou_threshold = 0.3", {"reward.iou_threshold", "reward.iou_threshold_end"}),
        ("reward.iou_threshold_end = 0.7", {"reward.iou_threshold", "reward.iou_threshold_end"}),
        ("grpo.kl_coef_end = 0.1", {"grpo.kl_coef"}),
        ("augment.horizontal_flip = false", {"augment.resized_crop", "augment.colour_jitter"}),
    ],
)
def test_value_without_effect_or_next_to_a_related_explicit_one_is_not_filled_in(text: str, absent: set[str]) -> None:
    loaded = fitted(text)
    assert not absent & fitted_keys(loaded)
    assert not without_effect(loaded.config).keys() & fitted_keys(loaded)


def test_image_size_does_not_contradict_an_explicit_minimum() -> None:
    assert fitted("model.min_pixels = 500000", LARGE).config.model.max_pixels is None


def test_only_detection_has_the_settings_of_boxes() -> None:
    loaded = fitted(facts=replace(TINY, tasks=frozenset({"classification"})))
    assert fitted_keys(loaded) == {"grpo.learning_rate", "grpo.kl_coef", "grpo.steps"}


@pytest.mark.parametrize(
    ("num_samples", "grpo_steps", "sft_steps"), [(60, 200, 100), (4000, 250, 750), (10**6, 1000, 1000)]
)
def test_steps_grow_with_the_samples(num_samples: int, grpo_steps: int, sft_steps: int) -> None:
    # GRPO: one pass, 4000 / 16 = 250; SFT: three passes, 3 * 4000 / 16 = 750
    facts = replace(LARGE, num_samples=num_samples)
    assert fitted(facts=facts).config.grpo.steps == grpo_steps
    assert fitted(facts=facts, method="sft").config.sft.steps == sft_steps


@pytest.mark.parametrize(
    ("num_images", "num_samples", "steps"), [(43, 60, 80), (43, 1600, 100), (200, 300, 200), (5000, 9000, 563)]
)
def test_small_model_with_few_images_trains_for_minutes(num_images: int, num_samples: int, steps: int) -> None:
    # one pass: 1600 / 16 = 100; 9000 / 16 = 562.5
    facts = replace(TINY, num_images=num_images, num_samples=num_samples)
    assert fitted(facts=facts).config.grpo.steps == steps


def test_sft_does_not_fit_settings_of_grpo_and_the_reverse() -> None:
    assert not {key for key in fitted_keys(fitted(method="sft")) if key.startswith(("grpo.", "reward."))}
    assert not {key for key in fitted_keys(fitted()) if key.startswith("sft.")}
    assert {"grpo.learning_rate", "sft.learning_rate"} <= fitted_keys(fitted(method="compare"))


def test_rates_that_a_comparison_tries_replace_the_fitted_ones() -> None:
    text = 'data.validation = "v"\ncompare.sft_learning_rates = [1e-5, 1e-4]\ncompare.rft_learning_rates = [1e-5, 1e-4]'
    assert not {"grpo.learning_rate", "sft.learning_rate"} & fitted_keys(fitted(text, method="compare"))


VALIDATION = 'data.validation = "v"\n'


@pytest.mark.parametrize(
    ("text", "method", "every"),
    [
        ("", "grpo", 20),  # fitted: 80 steps
        ("grpo.steps = 30", "grpo", 8),
        ("grpo.steps = 3", "grpo", 1),
        ("sft.steps = 200", "sft", 50),
        ("grpo.steps = 40", "compare", 10),
        ("data.validate_every = 0", "grpo", 0),
        ("data.validate_every = 7", "grpo", 7),
    ],
)
def test_a_run_with_a_validation_set_is_validated_four_times(text: str, method: FittedMethod, every: int) -> None:
    assert fitted(VALIDATION + text, method=method).config.data.validate_every == every


def test_the_validation_interval_is_fitted_only_with_a_validation_set() -> None:
    assert "data.validate_every" not in fitted_keys(fitted())
    assert fitted(VALIDATION).origins["data.validate_every"] == (
        "fitted: a quarter of 80 steps: the best model is chosen among several"
    )


def test_every_fitted_key_is_listed() -> None:
    found = fitted_keys(fitted(VALIDATION, replace(LARGE, num_parameters=10**7, num_samples=10**5), method="train"))
    found |= fitted_keys(fitted(facts=replace(TINY, num_samples=10**5), method="sft"))
    assert found - {"reward.weights"} == set(FITTED_KEYS)


@pytest.mark.parametrize(
    "path", [*sorted(CONFIGS.glob("compare_*.toml")), CONFIGS / "quickstart.toml"], ids=lambda p: p.name
)
def test_measured_configs_are_not_changed(path: Path) -> None:
    named = (task for task in ("classification", "grounding", "pointing") if task in path.name)
    task = next(named, "detection")
    loaded = load_config(path)
    facts = replace(TINY, tasks=frozenset({task}))
    done = complete(loaded, fitted_values(loaded.config, loaded.explicit, facts, method="compare"))
    assert fitted_keys(done) == set()
    assert done.config == loaded.config


@pytest.mark.parametrize(
    ("method", "text"),
    [("train", ""), *((one, 'grpo.demonstrations = "loss"') for one in ("train", "grpo", "compare"))],
)
def test_demonstrations_fade(method: FittedMethod, text: str) -> None:
    grpo = fitted(text, replace(TINY, num_samples=16), method).config.grpo
    assert (grpo.demonstrations, grpo.demonstration_coef, grpo.demonstration_coef_end) == ("loss", 0.1, 0.0)


@pytest.mark.parametrize("method", ["grpo", "compare"])
def test_only_the_recommended_method_has_demonstrations(method: FittedMethod) -> None:
    assert fitted(method=method).config.grpo.demonstrations == "off"


@pytest.mark.parametrize(
    ("text", "coef"),
    [
        ("grpo.steps = 71", 0.5),
        ("grpo.steps = 72", 0.1),
        ("grpo.steps = 72\ngrpo.warm_start_steps = 30", 0.5),
        ('grpo.steps = 60\ngrpo.demonstrations = "loss"\ngrpo.demonstration_coef = 0.3', 0.3),
    ],
)
def test_demonstrations_that_are_repeated_often_weigh_less(text: str, coef: float) -> None:
    loaded = fitted(f"grpo.prompts_per_step = 16\n{text}", replace(TINY, num_samples=46), method="train")
    assert (loaded.config.grpo.demonstration_coef, loaded.config.grpo.demonstration_coef_end) == (coef, 0.0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("prompt.thinking = true", "off"),
        ('grpo.demonstrations = "off"', "off"),
        ('grpo.demonstrations = "group"', "group"),
    ],
)
def test_demonstrations_that_are_set_or_would_be_refused_are_left_alone(text: str, kind: str) -> None:
    loaded = fitted(text, method="train")
    assert loaded.config.grpo.demonstrations == kind
    assert loaded.config.grpo.demonstration_coef_end is None


def test_missing_demonstrations_have_a_reason() -> None:
    origins = fitted("prompt.thinking = true", method="train").origins
    assert origins["grpo.demonstrations"].startswith("fitted: no demonstrations: prompts request reasoning")


def test_warm_start_that_is_set_gets_the_rate_of_sft() -> None:
    assert fitted("grpo.warm_start_steps = 9").config.sft.learning_rate == 3e-4
