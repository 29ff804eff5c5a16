"""Learning rates and configs of the systems of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from factories import sample, save_image
from virft.config.schema import COMPARED_SYSTEMS as NAMES
from virft.config.schema import (
    CompareConfig,
    Config,
    DataConfig,
    GRPOConfig,
    MixtureConfig,
    PromptConfig,
    RunConfig,
    SFTConfig,
)
from virft.config.toml_file import first_difference
from virft.data.store_writer import StoreWriter
from virft.recipes.compare.systems import (
    SYSTEMS,
    Steps,
    grpo_config,
    has_demonstrations,
    has_possible_thinking,
    learning_rates,
    sft_config,
    shared_settings,
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


def test_a_warm_start_and_grpo_try_pairs_of_learning_rates() -> None:
    assert learning_rates("sft_rft", config()) == [(1e-5, 3e-5), (1e-4, 3e-4)]
    assert learning_rates("curated_sft", config()) == [(1e-4,), (1e-5,)]
    assert learning_rates("mix", config()) == [(3e-5,), (3e-4,)]


def test_runs_without_demonstrations_do_not_depend_on_their_settings() -> None:
    mixed = config(grpo=GRPOConfig(demonstrations="loss", steps=9))

    def of(name: str, given: Config) -> Config:
        return grpo_config(given, name, Steps(4, 2), rates=(1e-4,), seed=2, folder=Path("f"))

    one = of("rft", mixed)
    assert (one.grpo.demonstrations, one.grpo.steps, one.grpo.learning_rate) == ("off", 4, 1e-4)
    assert (one.seed, one.run.dir, one.compare) == (2, "f", CompareConfig())
    assert of("mix", mixed).grpo.demonstrations == "loss"
    assert first_difference(one, of("rft", config(grpo=GRPOConfig(steps=9)))) is None


def test_a_warm_start_is_part_of_the_run_and_has_the_learning_rate_of_sft() -> None:
    given = config(
        grpo=GRPOConfig(demonstrations="loss", steps=9, warmup_steps=5),
        sft=SFTConfig(targets="curated", base_completions="b", warmup_steps=5),
    )
    one = grpo_config(given, "sft_mix", Steps(5, 2, 3), rates=(1e-3, 1e-4), seed=2, folder=Path("f"))
    assert (one.grpo.steps, one.grpo.warm_start_steps, one.grpo.demonstrations) == (5, 3, "loss")
    assert (one.sft.learning_rate, one.grpo.learning_rate) == (1e-3, 1e-4)
    assert one.sft.targets == "labels"
    # both warm-ups of the learning rate end before the last step of their part
    assert (one.sft.warmup_steps, one.grpo.warmup_steps) == (2, 1)
    plain = grpo_config(given, "mix", Steps(5, 2), rates=(1e-4,), seed=2, folder=Path("f"))
    assert (plain.grpo.warm_start_steps, plain.sft.warmup_steps, plain.grpo.warmup_steps) == (0, 5, 4)


def test_each_kind_of_sft_has_its_own_settings_only() -> None:
    given = config(sft=SFTConfig(curated_above=0.1, rejection_above=0.9, rejection_keep="distinct", warmup_steps=5))
    found = {
        name: sft_config(given, name, Steps(3, 2), rates=(1e-3,), seed=1, base=Path("b"), folder=Path("f")).sft
        for name in ("sft", "curated_sft", "rejection_sft")
    }
    own = {one.targets: (one.base_completions, one.curated_above, one.rejection_above) for one in found.values()}
    assert own == {"labels": (None, 0.0, 0.5), "curated": ("b", 0.1, 0.5), "rejection": ("b", 0.0, 0.9)}
    # a short run has a short warm-up
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


def test_runs_of_each_method_are_counted() -> None:
    plan = CompareConfig(
        systems=("sft", "rft", "sft_rft", "sft_mix"),
        sft_learning_rates=(1e-4, 1e-5),
        rft_learning_rates=(3e-5, 3e-4),
        seeds=3,
    )
    # each system: two trials, one of them the first seed, and two more seeds
    assert planned_runs(config(plan, grpo=GRPOConfig(demonstrations="loss"))) == {"sft": 4, "grpo": 3 * 4}


@pytest.mark.parametrize(
    ("thinking", "part_thinking", "rationale", "expected"),
    [
        (False, None, None, True),
        (True, None, None, False),
        (True, None, "because", True),
        # a dataset of a mixture may have its own thinking mode
        (True, False, None, True),
        (False, True, None, False),
        (False, True, "because", True),
    ],
)
def test_thinking_needs_rationales_where_prompts_request_it(
    tmp_path: Path, thinking: bool, part_thinking: bool | None, rationale: str | None, expected: bool
) -> None:
    mixture = {}
    for name, reason in (("one", rationale), ("two", "because")):
        with StoreWriter(tmp_path / name) as writer:
            image = writer.add_image_file("a.png", save_image(tmp_path / "a.png"))
            writer.add(sample(image=image, rationale=reason))
            writer.finish(source={}, seed=0)
        mixture[name] = MixtureConfig(data=str(tmp_path / name), thinking=part_thinking if name == "one" else None)
    given = Config(mixture=mixture, prompt=PromptConfig(thinking=thinking), run=RunConfig(dir="x"))
    assert has_possible_thinking(given) is expected
    # a mix needs one sample that can be demonstrated, such as those of the second dataset
    assert has_demonstrations(given)
    assert has_demonstrations(replace(given, mixture={"one": mixture["one"], "same": mixture["one"]})) is expected
    # SFT trains on labels without thinking instead
    one = sft_config(given, "sft", Steps(3, 2), rates=(1e-3,), seed=1, base=Path("b"), folder=Path("f"))
    assert one.prompt.thinking is (thinking and expected)
    assert one.mixture["one"].thinking is (part_thinking if expected else False)
