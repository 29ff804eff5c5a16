"""Samples become rewarded groups: one per sample, read in the model's own box space."""

from __future__ import annotations

import pytest

from group_factories import encode, group
from toy_training import ToyGenerator, ToyPolicy, question, render
from virft.generation.generator import GenerationParams
from virft.generation.random_streams import StepKey
from virft.geometry.boxes import BoxSpace
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.training.grpo.rollout import roll_out
from virft.types import RewardContext, RolloutGroup

GRADER = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000)
SAMPLES = [question("a"), question("b"), question("c")]


def rolled(generator: ToyGenerator, *, laps: list[str] | None = None) -> list[RolloutGroup]:
    return roll_out(
        SAMPLES,
        [render(one) for one in SAMPLES],
        encode(*(group([0.0], id=one.id) for one in SAMPLES)),
        generator=generator,
        grader=GRADER,
        group_size=2,
        params=GenerationParams(max_completion_tokens=8),
        key=StepKey(seed=0, step=5),
        context=RewardContext(),
        lap=(laps if laps is not None else []).append,
    )


def test_each_sample_gets_a_group_with_a_report_for_every_completion() -> None:
    groups = rolled(ToyGenerator(ToyPolicy()))
    assert [one.sample.id for one in groups] == ["a", "b", "c"]
    assert [one.policy_step for one in groups] == [5, 5, 5]
    # wrong: format 1 alone; right: iou 1, confidence 2 x 1 - 1 = 1, format 1
    assert groups[0].rewards == pytest.approx((1.0, 3.0))


def test_sampling_and_rewarding_are_timed_apart() -> None:
    laps: list[str] = []
    rolled(ToyGenerator(ToyPolicy()), laps=laps)
    assert laps == ["sampling", "reward"]


def test_all_prompts_are_sampled_in_one_call() -> None:
    generator = ToyGenerator(ToyPolicy())
    groups = rolled(generator)
    assert [len(call) for call in generator.calls] == [3]
    assert [one.sample.id for one in groups] == ["a", "b", "c"]
