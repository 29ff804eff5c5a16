"""The model of trainers and samplers: against a simulation of one token at a time, and within known limits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.planning.cluster import (
    Cluster,
    Lengths,
    SamplerWork,
    StepCosts,
    best_split,
    continuous_work,
    sampling_seconds,
    simulate,
    static_work,
)

COSTS = StepCosts(
    decode_step=1.0,
    decode_row=0.01,
    context_token=1e-4,
    prompt_token=0.01,
    update_token=0.02,
    update=3.0,
    weight_sync=2.0,
)
GROUPS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=5)


def token_by_token(groups: Lengths, *, prompt_tokens: int, rows: int) -> SamplerWork:
    """The work of continuous batching, one decode step after the other."""
    waiting = [length for group in groups for length in group]
    active: list[tuple[int, int]] = []  # (tokens so far, length)
    steps = decoded = context = 0
    while waiting or active:
        while waiting and len(active) < rows:
            active.append((0, waiting.pop(0)))
        steps += 1
        decoded += len(active)
        context += sum(prompt_tokens + done + 1 for done, _ in active)
        active = [(done + 1, length) for done, length in active if done + 1 < length]
    return SamplerWork(steps, decoded, context, prompt_tokens * len(groups))


@given(groups=GROUPS, rows=st.integers(1, 9), prompt_tokens=st.integers(0, 20))
def test_continuous_batching_is_counted_as_one_token_at_a_time(
    groups: list[list[int]], rows: int, prompt_tokens: int
) -> None:
    expected = token_by_token(groups, prompt_tokens=prompt_tokens, rows=rows)
    assert continuous_work(groups, prompt_tokens=prompt_tokens, rows=rows) == expected


@given(groups=GROUPS)
def test_a_static_batch_is_as_long_as_its_longest_completion(groups: list[list[int]]) -> None:
    lengths = [length for group in groups for length in group]
    # A batch has whole groups, as many as the largest one allows.
    work = static_work(groups, prompt_tokens=5, rows=max(map(len, groups)) * len(groups))
    assert work.decode_steps == max(lengths)
    assert sum(lengths) <= work.decoded_rows <= max(lengths) * len(lengths)
    one_by_one = static_work(groups, prompt_tokens=5, rows=1)
    assert one_by_one.decode_steps == sum(map(max, groups))


def test_ended_rows_are_decoded_until_enough_have_ended() -> None:
    # Of 10 rows, one ends after 1 token and two after 2: 9 of 10 are above 0.85, 7 are not.
    work = static_work([[1, 2, 2, *([3] * 7)]], prompt_tokens=0, rows=10)
    assert work.decoded_rows == 10 + 10 + 7


def steps_of(seed: int, *, count: int = 4, prompts: int = 16) -> list[list[list[int]]]:
    rng = random.Random(seed)
    return [[[rng.randint(1, 200) for _ in range(4)] for _ in range(prompts)] for _ in range(count)]


def test_a_strict_step_is_sampling_then_update_and_the_weights_between() -> None:
    steps = steps_of(0)
    found = simulate(
        steps, Cluster(trainers=2, samplers=0, rows=64), prompt_tokens=7, costs=COSTS, schedule="continuous"
    )
    assert found.seconds == pytest.approx(found.sampling_s + found.update_s + COSTS.weight_sync)
    tokens = sum(7 + sum(group) for groups in steps for group in groups)
    assert found.tokens_per_s == pytest.approx(tokens / (len(steps) * found.seconds))


def test_one_step_off_is_the_longer_of_sampling_the_next_step_and_update() -> None:
    steps = steps_of(1)
    cluster = Cluster(trainers=2, samplers=2, rows=64)
    off = simulate(steps, cluster, prompt_tokens=7, costs=COSTS, schedule="one_step_off")
    sampled = [
        max(sampling_seconds(groups, count=2, prompt_tokens=7, rows=64, is_static=False, costs=COSTS))
        for groups in steps
    ]
    updated = [
        COSTS.update + COSTS.update_token * max(sum(7 + sum(group) for group in groups[i::2]) for i in range(2))
        for groups in steps
    ]
    pairs = zip(sampled[1:], updated, strict=False)
    assert off.seconds == pytest.approx(COSTS.weight_sync + sum(map(max, pairs)) / 3)
    with pytest.raises(ValueError, match="needs samplers of their own"):
        simulate(steps, replace(cluster, samplers=0), prompt_tokens=7, costs=COSTS, schedule="one_step_off")


@pytest.mark.parametrize("seed", range(5))
def test_one_step_off_is_at_most_twice_as_fast_as_the_same_devices_in_turn(seed: int) -> None:
    steps = steps_of(seed, count=30)
    cluster = Cluster(trainers=3, samplers=3, rows=16)
    strict, off = (
        simulate(steps, cluster, prompt_tokens=7, costs=COSTS, schedule=schedule)
        for schedule in ("continuous", "one_step_off")
    )
    # up to the pairs at both ends of the run
    assert 0.98 <= strict.seconds / off.seconds <= 2.05
    assert off.idle_frac < strict.idle_frac


def test_equal_devices_that_never_wait_are_never_idle() -> None:
    costs = replace(COSTS, weight_sync=0.0)
    steps = [[[10] * 4] * 4] * 3
    found = simulate(
        steps, Cluster(trainers=4, samplers=0, rows=4), prompt_tokens=7, costs=costs, schedule="continuous"
    )
    assert found.idle_frac == found.trainer_idle_frac == pytest.approx(0)


@pytest.mark.parametrize("count", [2, 8, 64])
def test_no_other_split_is_faster(count: int) -> None:
    steps = steps_of(2, prompts=64)
    arguments = {"prompt_tokens": 7, "costs": COSTS, "schedule": "one_step_off"}
    cluster, found = best_split(steps, count, rows=16, **arguments)  # type: ignore[arg-type]
    assert cluster.count == count
    others: Sequence[int] = [1, count // 4 or 1, count // 2, count - 1]
    for samplers in others:
        other = Cluster(trainers=count - samplers, samplers=samplers, rows=16)
        if count <= 16:
            assert found.seconds <= simulate(steps, other, **arguments).seconds  # type: ignore[arg-type]
