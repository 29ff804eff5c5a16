"""Names of other trainers, and misspelt ones, lead to the setting that was meant."""

from __future__ import annotations

import pytest

from virft.config.nearest import suggest_setting
from virft.config.other_names import OTHER_NAMES, OTHER_SECTIONS, find_other_name, other_names_of
from virft.config.schema import sections, settings

KEYS = {setting.key for setting in settings()}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_every_counterpart_is_a_setting_or_explained(name: str) -> None:
    other = OTHER_NAMES[name]
    assert set(other.keys) <= KEYS
    assert other.keys or other.note
    assert not other.note.endswith(".")


def test_a_name_that_is_a_setting_here_needs_no_entry() -> None:
    # such an entry would never be read: the same name in another section comes first
    own = {key.rpartition(".")[2] for key in KEYS if not key.startswith("mixture.")}
    assert own.isdisjoint(name for name in OTHER_NAMES if "." not in name)
    assert set(OTHER_SECTIONS.values()) <= set(sections())


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("lr", "did you mean grpo.learning_rate or sft.learning_rate?"),
        ("grpo.lr", "did you mean grpo.learning_rate?"),
        ("sft.batch_size", "did you mean sft.samples_per_step? both count prompts over all processes"),
        ("epochs", "did you mean grpo.steps or sft.steps? steps = epochs x training samples / samples per step"),
        ("per_device_train_batch_size", "did you mean grpo.prompts_per_step or sft.samples_per_step? samples_per_st"),
        ("num_generations", "did you mean grpo.group_size?"),
        ("run.seed", "did you mean seed?"),
        ("data.path", "did you mean model.path?"),
        ("learning_rate", "did you mean grpo.learning_rate or sft.learning_rate?"),
        ("learning-rate", "did you mean grpo.learning_rate or sft.learning_rate?"),
        ("learnin_rate", "did you mean grpo.learning_rate or sft.learning_rate?"),
        ("worker.rollout.n", "did you mean grpo.group_size?"),
        ("algorithm.kl_coef", "did you mean grpo.kl_coef?"),
        ("worker.actor.optim.lr", "did you mean grpo.learning_rate or sft.learning_rate?"),
        ("gpro.steps", "did you mean grpo.steps?"),
        ("gropo.stepz", "did you mean grpo.steps?"),
        ("sead", "did you mean seed?"),
        ("n", "expected seed or a key of model, data"),
        ("max_prompt_length", "prompts are never truncated; model.max_pixels bounds"),
        ("use_vllm", 'did you mean sampling.engine? sampling.engine = "vllm"'),
        ("guards.xyz", "did you mean the section monitors?"),
        ("prompt.xyz", "[prompt] has template, thinking, zoom_calls"),
        ("mixture.planes.wieght", "did you mean mixture.planes.weight?"),
    ],
)
def test_the_nearest_setting_is_named_with_its_section(key: str, expected: str) -> None:
    assert suggest_setting(key).startswith(expected)


def test_a_suggestion_is_never_for_the_wrong_method() -> None:
    assert "grpo." not in suggest_setting("sft.per_device_train_batch_size").partition("?")[0]
    assert "sft." not in suggest_setting("grpo.epochs").partition("?")[0]


def test_a_dotted_name_matches_the_end_of_a_longer_one_only() -> None:
    assert find_other_name("rollout.n") is find_other_name("worker.rollout.n")
    assert find_other_name("rollout.nn") is None


def test_names_elsewhere_are_listed_for_a_setting() -> None:
    assert "num_generations" in other_names_of("grpo.group_size")
    assert other_names_of("monitors.window") == ()
