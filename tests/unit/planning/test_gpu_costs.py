"""Costs on GPUs follow from sizes and rates."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest

from virft.models.peak_rates import MEMORY_RATES, PEAK_RATES
from virft.planning.gpu_costs import (
    LAUNCH_S,
    MAX_SEQUENCES,
    READ_FRAC,
    ModelSizes,
    draw_lengths,
    gpu_costs,
    sampler_rows,
)

SIZES = ModelSizes(weights=2 * 10**9, trained=10**7, kv_bytes=30_000, has_adapters=True)


def test_every_gpu_has_both_rates() -> None:
    assert PEAK_RATES.keys() == MEMORY_RATES.keys()


def test_a_decode_step_reads_the_weights() -> None:
    costs = gpu_costs(SIZES, "H100")
    assert costs.decode_step == pytest.approx(LAUNCH_S + 4e9 / (READ_FRAC * 3.35e12))
    assert gpu_costs(replace(SIZES, weights=4 * 10**9), "H100").decode_step > costs.decode_step
    assert gpu_costs(SIZES, "L4").decode_step > costs.decode_step


def test_frozen_weights_have_no_gradient() -> None:
    full = gpu_costs(replace(SIZES, has_adapters=False), "H100")
    assert full.update_token == pytest.approx(1.5 * gpu_costs(SIZES, "H100").update_token)


@pytest.mark.parametrize(("gib", "expected"), [(3, 0), (8, 24), (80, MAX_SEQUENCES)])
def test_completions_of_a_sampler_fill_the_memory_beside_its_weights(gib: int, expected: int) -> None:
    found = sampler_rows(SIZES, gib * 2**30, prompt_tokens=1000, max_completion_tokens=4000)
    assert found == expected


def test_lengths_have_the_median_and_the_limit() -> None:
    groups = draw_lengths(random.Random(0), num_groups=500, group_size=8, median=200, longest=600)
    lengths = [length for group in groups for length in group]
    assert len(groups) == 500 and {len(group) for group in groups} == {8}
    assert statistics.median(lengths) == pytest.approx(200, rel=0.05)
    assert max(lengths) == 600 and min(lengths) >= 1
