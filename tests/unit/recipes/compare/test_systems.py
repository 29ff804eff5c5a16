"""The stages, learning rates and configs of the systems of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from virft.config.schema import COMPARED_SYSTEMS as NAMES
from virft.config.schema import CompareConfig, Config, DataConfig, GRPOConfig, RunConfig, SFTConfig
from virft.config.toml_file import first_difference
from virft.recipes.compare.systems import (
    SYSTEMS,
    Steps,
    grpo_config,
    learning_rates,
    sft_config,
    shared_settings,
    split_steps,
)
from virft.recipes.compare.training import planned_runs

RATES = CompareConfig(sft_learning_rates=(1e-4, 1e-5), rft_learning_rates=(3e-5, 3e-4), seeds=3)


def config(compare: CompareConfig = RATES, **parts: object) -> Config:
    data = DataConfig(train="train", validation="validation")
    return Config(data=data, compare=compare, run=RunConfig(dir="runs/x"), **parts)  # type: ignore[arg-type]


def test_the_settings_list_every_system() -> None:
    assert tuple(SYSTEMS) == ("base", *NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_system_has_the_same_number_of_trials(name: str) -> None:
    assert len(learning_rates(name, config())) == 2
    assert len(learning_rates(name, config(CompareConfig()))) == 1


def test_two_stages_try_pairs_of_learning_rates() -> None:
    assert learning_rates("sft_rft", config()) == [(1e-5, 3e-5), (1e-4, 3e-4)]
    assert learning_rates("curated_sft", config()) == [(1e-4,), (1e-5,)]
    assert learning_rates("mix", config()) == [(3e-5,), (3e-4,)]


@pytest.mark.parametrize(
    ("frac", "expected"), [(0.5, (60, 60)), (0.25, (30, 90)), (0.001, (1, 119)), (0.999, (120, 1))]
)
def test_the_stages_of_a_system_share_the_steps_of_one(frac: float, expected: tuple[int, int]) -> None:
    found = split_steps("sft_mix", sft=120, sft_samples=16, grpo=120, warm_start_frac=frac)
    assert (found.sft, found.grpo) == expected


def test_a_system_of_one_stage_has_all_steps() -> None:
    assert split_steps("sft", sft=120, sft_samples=16, grpo=90, warm_start_frac=0.5) == Steps(120, 16, 0)
    assert split_steps("rft", sft=120, sft_samples=16, grpo=90, warm_start_frac=0.5) == Steps(0, 0, 90)


def test_runs_without_demonstrations_do_not_depend_on_their_settings() -> None:
    mixed = config(grpo=GRPOConfig(demonstrations="loss", steps=9))
    steps = Steps(0, 0, 4)
    one = grpo_config(mixed, steps, is_mixed=False, rate=1e-4, seed=2, model="m", folder=Path("f"))
    assert (one.grpo.demonstrations, one.grpo.steps, one.grpo.learning_rate) == ("off", 4, 1e-4)
    assert (one.seed, one.model.path, one.run.dir, one.compare) == (2, "m", "f", CompareConfig())
    mix = grpo_config(mixed, steps, is_mixed=True, rate=1e-4, seed=2, model="m", folder=Path("f"))
    assert mix.grpo.demonstrations == "loss"
    plain = grpo_config(
        config(grpo=GRPOConfig(steps=9)), steps, is_mixed=False, rate=1e-4, seed=2, model="m", folder=Path("f")
    )
    assert first_difference(one, plain) is None


def test_each_kind_of_sft_has_its_own_settings_only() -> None:
    given = config(sft=SFTConfig(curated_above=0.1, rejection_above=0.9, rejection_keep="distinct", warmup_steps=5))
    found = {
        targets: sft_config(given, targets, Steps(3, 2, 0), rate=1e-3, seed=1, base=Path("b"), folder=Path("f")).sft
        for targets in ("labels", "curated", "rejection")
    }
    own = {name: (one.base_completions, one.curated_above, one.rejection_above) for name, one in found.items()}
    assert own == {"labels": (None, 0.0, 0.5), "curated": ("b", 0.1, 0.5), "rejection": ("b", 0.0, 0.9)}
    # a short stage has a short warm-up
    assert {(one.steps, one.samples_per_step, one.warmup_steps, one.learning_rate) for one in found.values()} == {
        (3, 2, 2, 1e-3)
    }


def test_a_comparison_may_be_resumed_with_more_systems() -> None:
    before = config(CompareConfig(systems=("rft",), seeds=1))
    after = config(
        CompareConfig(systems=("rft", "mix")),
        grpo=GRPOConfig(demonstrations="loss"),
        sft=SFTConfig(rejection_above=0.9),
    )
    assert first_difference(shared_settings(before), shared_settings(after)) is None
    other = config(CompareConfig(systems=("rft",)), grpo=GRPOConfig(group_size=4))
    difference = first_difference(shared_settings(before), shared_settings(other))
    assert difference is not None and difference.key == "grpo.group_size"


def test_runs_are_counted_with_shared_warm_starts() -> None:
    plan = CompareConfig(
        systems=("sft", "rft", "sft_rft", "sft_mix"),
        sft_learning_rates=(1e-4, 1e-5),
        rft_learning_rates=(3e-5, 3e-4),
        seeds=3,
    )
    grpo = GRPOConfig(demonstrations="loss")
    # each system: two trials, one of them the first seed, and two more seeds; warm starts: two trials, 2 * 2 seeds
    assert planned_runs(config(plan, grpo=grpo)) == {"sft": 4 + 2 + 2 + 2, "grpo": 3 * 4}
