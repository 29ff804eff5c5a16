"""The search finds the largest settings that fit, and prints what to write into the config."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, ParallelConfig, RunConfig, SamplingConfig
from virft.config.toml_file import parse
from virft.planning.fit import USABLE_FRAC, Fit, find_fit
from virft.planning.memory import FitOption, Planner, RowShape
from virft.planning.text import format_fit, format_plan, format_verdict
from virft.types import ImageSize

IMAGE = ImageSize(112, 112)
CONFIG = Config(
    data=DataConfig(train="d"),
    run=RunConfig(dir="r"),
    # gradients of all weights: the update needs more than sampling, whatever the row
    model=ModelConfig(dtype="bfloat16"),
    grpo=GRPOConfig(steps=2, prompts_per_step=3, group_size=4),
    sampling=SamplingConfig(max_completion_tokens=10),
)


@cache
def planner() -> Planner:
    return Planner(CONFIG, image=IMAGE, text_tokens=20)


def fit(memory: int) -> Fit | None:
    return find_fit(CONFIG, planner(), memory=memory, image=IMAGE, text_tokens=20)


def peak(checkpointing: bool, microbatch_tokens: int) -> int:
    option = FitOption(gradient_checkpointing=checkpointing, microbatch_tokens=microbatch_tokens, prompts_per_batch=1)
    return planner().memory(option).peak


@pytest.mark.slow
def test_with_enough_memory_a_step_is_one_row() -> None:
    found = fit(1 << 40)
    assert found is not None
    # 3 groups of 16 + 20 + 4 x 10 tokens
    assert found.option == FitOption(gradient_checkpointing=False, microbatch_tokens=228, prompts_per_batch=3)
    assert found.max_pixels is None


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "groups"), [(False, 2), (False, 1), (True, 1)])
def test_the_largest_row_that_fits_is_found(checkpointing: bool, groups: int) -> None:
    size = peak(checkpointing, groups * 76)
    enough = fit(int(size / USABLE_FRAC) + 2)
    assert enough is not None
    assert (enough.option.gradient_checkpointing, enough.option.microbatch_tokens) == (checkpointing, groups * 76)
    assert enough.memory.peak <= size
    less = fit(int(size / USABLE_FRAC) - 1000)
    assert less is None or less.option != enough.option


def test_if_nothing_fits_the_text_names_smaller_settings() -> None:
    assert fit(1 << 20) is None
    text = format_fit(planner(), None, memory=1 << 20)
    assert text.startswith("# Nothing fits into 90% of 0.0009766 GiB")


def test_the_first_line_says_whether_the_config_fits() -> None:
    peak = planner().memory(planner().configured).peak
    size = int(peak / USABLE_FRAC) + 2
    assert format_verdict(planner(), fit(size), memory=size).startswith(f"This config fits into {size / 2**30:.4g} GiB")
    less = int(size * 0.9)
    text = format_verdict(planner(), fit(less), memory=less)
    numbers = f"peak {peak / 2**30:.2f} GiB, usable {0.9 * less / 2**30:.2f} GiB (90%)"
    assert (
        text == f"THIS CONFIG DOES NOT FIT into {less / 2**30:.4g} GiB: {numbers}; the settings in the last lines do."
    )
    assert format_verdict(planner(), None, memory=1 << 20).endswith("; nothing does, see the last lines.")


def test_the_settings_can_be_pasted_into_a_config() -> None:
    found = fit(1 << 40)
    toml = format_fit(planner(), found, memory=1 << 40)
    read = parse('data.train = "d"\nrun.dir = "r"\n' + toml, origin="x.toml").config
    assert read.grpo.microbatch_tokens == 228
    assert read.sampling.prompts_per_batch == 3
    assert read.model.gradient_checkpointing is False


def test_a_plan_lists_the_sizes_of_the_run() -> None:
    lines = format_plan(planner()).splitlines()
    # 4 layers x 738,304, embeddings and head of 896 x 256, a norm
    assert lines[0] == "model       7,095,040 parameters, 3,412,224 of them trained"
    assert lines[1] == "precision   bfloat16"
    assert lines[2] == "prompt      36 tokens: 16 of an image of 112 x 112, 20 of text"
    assert lines[3] == "row         228 tokens: 3 x (prompt + 4 x 10)"
    assert lines[-1].startswith("peak: throughout + largest stage")


def test_a_plan_names_the_processes_and_the_memory_of_one() -> None:
    shared = replace(CONFIG, parallel=ParallelConfig(strategy="fsdp2", shard_size=2))
    settings = replace(shared, grpo=replace(CONFIG.grpo, prompts_per_step=4))
    of_four = Planner(settings, image=IMAGE, text_tokens=20, num_processes=4)
    lines = format_plan(of_four).splitlines()
    assert "processes   4, fsdp2 over groups of 2; the memory below is that of one of them" in lines
    assert not any(line.startswith("processes") for line in format_plan(planner()).splitlines())


@pytest.mark.slow
def test_without_memory_for_a_merged_copy_the_adapters_are_not_merged() -> None:
    config = replace(CONFIG, model=ModelConfig(dtype="bfloat16", train="lora"))
    merging = Planner(config, image=IMAGE, text_tokens=20)
    exact = Planner(replace(config, sampling=replace(config.sampling, weights="exact")), image=IMAGE, text_tokens=20)
    tokens = exact.row_tokens(RowShape(groups=1, completions=1))
    least = FitOption(gradient_checkpointing=True, microbatch_tokens=tokens, prompts_per_batch=1)
    without, merged = (one.memory(least).peak for one in (exact, merging))
    assert without < merged
    memory = int((without + merged) / 2 / USABLE_FRAC)
    found = find_fit(config, merging, memory=memory, image=IMAGE, text_tokens=20)
    assert found is not None
    assert found.needs_exact_weights
    assert found.max_pixels is None
    assert found.memory.peak <= USABLE_FRAC * memory
    assert 'sampling.weights = "exact"' in format_fit(merging, found, memory=memory)
    enough = find_fit(config, merging, memory=1 << 40, image=IMAGE, text_tokens=20)
    assert enough is not None
    assert not enough.needs_exact_weights
