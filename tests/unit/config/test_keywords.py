"""Settings from Python are held to the same rules as those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RewardConfig, RunConfig
from virft.config.toml_file import KEYWORDS, changed, load_config, parse
from virft.errors import ConfigError

BASE = {"data.train": "d", "run.dir": "r"}


def config(**keywords: Any) -> Config:
    return parse("", origin=KEYWORDS, keywords=BASE | keywords).config


def test_nested_mappings_and_dotted_keys_are_the_same() -> None:
    nested = config(grpo={"steps": 9, "group_size": 3}, seed=7, reward={"weights": {"iou": 2}})
    dotted = config(**{"grpo.steps": 9, "grpo.group_size": 3, "seed": 7, "reward.weights.iou": 2})
    assert nested == dotted
    assert (nested.grpo.steps, nested.grpo.group_size, nested.seed, nested.reward.weights) == (9, 3, 7, {"iou": 2.0})


def test_paths_and_lists_are_taken() -> None:
    found = config(**{"data.train": Path("a") / "b", "run.trackers": ["tensorboard"]})
    assert (found.data.train, found.run.trackers) == (str(Path("a") / "b"), ("tensorboard",))


def test_a_mixture_is_a_mapping_of_mappings() -> None:
    found = parse("", origin=KEYWORDS, keywords={"run.dir": "r", "mixture": {"a": {"data": "x", "weight": 2}}}).config
    assert (found.mixture["a"].data, found.mixture["a"].weight) == ("x", 2.0)


def test_keywords_replace_the_settings_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('data.train = "d"\ngrpo.steps = 5\ngrpo.group_size = 3\n')
    found = load_config(path, keywords={"grpo": {"steps": 9}, "run.dir": "r"}).config
    assert (found.grpo.steps, found.grpo.group_size) == (9, 3)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"grpo.stepz": 1}, "^keyword arguments: grpo.stepz is not a setting; did you mean grpo.steps?"),
        ({"gropo": {"steps": 1}}, "^keyword arguments: gropo.steps is not a setting; did you mean grpo.steps?"),
        ({"grpo": 3}, r"^keyword arguments: grpo is 3; expected a table \[grpo\]"),
        ({"grpo.steps": "3"}, "^keyword arguments: grpo.steps"),
        ({"model.lora_rank": 4}, "^keyword arguments: model.lora_rank has no effect"),
    ],
)
def test_an_invalid_keyword_is_an_error(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**keywords)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^keyword arguments: run\.dir is missing; expected a folder"):
        parse("", origin=KEYWORDS, keywords={"data.train": "d"})


def test_a_config_changes_in_what_the_keywords_say_only() -> None:
    base = Config(
        data=DataConfig(train="d"),
        run=RunConfig(dir="r"),
        model=ModelConfig(train="lora", lora_rank=4),
        grpo=GRPOConfig(steps=5),
        reward=RewardConfig(weights={"iou": 2.0}),
    )
    assert changed(base, {}) == base
    found = changed(base, {"grpo.steps": 9, "reward.weights.format": 0.5})
    assert found.grpo.steps == 9
    assert found.reward.weights == {"iou": 2.0, "format": 0.5}
    assert base.reward.weights == {"iou": 2.0}
    assert found.model == base.model


def test_a_default_of_a_config_may_lose_its_effect() -> None:
    base = Config(data=DataConfig(train="d", validation="v", validate_every=5), run=RunConfig(dir="r", patience=0))
    assert changed(base, {"data.validate_every": 0}).data.validate_every == 0
    with pytest.raises(ConfigError, match=r"data\.validate_every has no effect: it needs data.validation"):
        changed(base, {"data.validation": None})
