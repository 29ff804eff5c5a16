"""Samples become rewarded groups: one per sample, read in the model's own box space."""

from __future__ import annotations

import pytest

from group_factories import encode, group, prompt
from toy_training import RIGHT, WRONG, ToyGenerator, ToyPolicy, question, render
from virft.boxes import BoxSpace
from virft.grpo.rollout import Grader, roll_out
from virft.models.generator import GenerationParams
from virft.models.noise import StepKey
from virft.rewards.combine import RewardRule
from virft.types import RewardContext, RolloutGroup

GRADER = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000)
SAMPLES = [question("a"), question("b"), question("c")]


def rolled(generator: ToyGenerator, *, clock: list[str] | None = None, size: int | None = None) -> list[RolloutGroup]:
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
        clock=(clock if clock is not None else []).append,
        prompts_per_batch=size,
    )


def test_each_sample_gets_a_group_with_a_report_for_every_completion() -> None:
    groups = rolled(ToyGenerator(ToyPolicy()))
    assert [one.sample.id for one in groups] == ["a", "b", "c"]
    assert [one.policy_step for one in groups] == [5, 5, 5]
    # wrong: format 1 alone; right: iou 1, confidence 2 x 1 - 1 = 1, format 1
    assert groups[0].rewards == pytest.approx((1.0, 3.0))


def test_sampling_and_rewarding_are_timed_apart() -> None:
    clock: list[str] = []
    rolled(ToyGenerator(ToyPolicy()), clock=clock)
    assert clock == ["sampling", "reward"]


@pytest.mark.parametrize(("size", "calls"), [(None, [3]), (1, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_at_most_so_many_prompts_are_sampled_at_once(size: int | None, calls: list[int]) -> None:
    generator = ToyGenerator(ToyPolicy())
    groups = rolled(generator, size=size)
    assert [len(call) for call in generator.calls] == calls
    assert [one.sample.id for one in groups] == ["a", "b", "c"]


def test_boxes_are_read_in_the_models_own_space() -> None:
    # 100 x 100 pixels, seen as 56 x 56 by the model: [20, 25, 80, 75] becomes [11.2, 14, 44.8, 42]
    text = "<answer>[{'Position':[11.2,14,44.8,42],'Confidence':1.0}]</answer>"
    grader = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RESIZED_PIXELS)
    assert grader.grade(text, question(), prompt(), RewardContext()).parts["iou"] == pytest.approx(1.0)


def test_a_rising_threshold_follows_the_run() -> None:
    # IoU of [200, 250, 800, 750] and its left two thirds: 2 / 3
    text = "<answer>[{'Position':[200,250,600,750],'Confidence':1.0}]</answer>"
    rule = RewardRule(iou_threshold=0.5, iou_threshold_end=0.9)
    grader = Grader(rule=rule, thinking=False, box_space=BoxSpace.RELATIVE_1000)
    first, last = (grader.grade(text, question(), prompt(), RewardContext(step_frac=frac)) for frac in (0.0, 1.0))
    assert first.parts["iou"] == pytest.approx(2 / 3)
    assert last.parts["iou"] == 0.0


def test_a_think_block_is_a_fault_where_none_was_asked() -> None:
    grader = Grader(rule=RewardRule(), thinking=True, box_space=BoxSpace.RELATIVE_1000)
    thought = "<think>It stands left.</think>" + RIGHT
    assert grader.grade(thought, question(), prompt(), RewardContext()).parts["format"] == 1.0
    assert GRADER.grade(thought, question(), prompt(), RewardContext()).parts["format"] == 0.0
    assert GRADER.grade(WRONG, question(), prompt(), RewardContext()).parts["format"] == 1.0
