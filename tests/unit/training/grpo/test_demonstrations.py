"""Demonstrations: what they say, what their tokens weigh, and that they leak into nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from factories import box, detections, labelled, reading, sample
from group_factories import group, report
from process_cases import EQUAL, VARIED, Case, outcome
from toy_training import RIGHT, question, render, toy_trainer
from virft.errors import NonFiniteReward
from virft.generation.random_streams import StepKey
from virft.geometry.boxes import BoxSpace
from virft.models.renderer import RenderedPrompt
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.training.distributed import Ranks
from virft.training.grpo.demonstration_weights import advantages_of
from virft.training.grpo.demonstrations import Demonstration, WrittenTarget, demonstrate, hit_rate, success
from virft.training.grpo.trainer import GRPOTrainer
from virft.types import Box, Detections, Label, Reading, RewardContext, RewardReport, RolloutGroup, Sample

SAMPLES = [question("a"), question("b")]
KEY = StepKey(seed=0, step=3)
FAR = (0, 0, 5, 5)


def write(one: Sample, rendered: RenderedPrompt) -> WrittenTarget:
    """The target as text, and token 1 for it."""
    text = TASKS[one.task].render_for(one, space=BoxSpace.RELATIVE_1000, resized=one.target_size)
    return WrittenTarget(text=text, token_ids=(1,), in_loss=(True,))


def trainer(mode: str, **settings: Any) -> GRPOTrainer:
    made = toy_trainer(demonstrations=mode, **settings)
    made.write_target = write
    return made


def weight(made: GRPOTrainer) -> torch.Tensor:
    (found,) = made.policy.parameters()
    return found.detach()


def answers(one: Sample, *given: Detections) -> RolloutGroup:
    """A group with these answers."""
    reports = tuple(replace(report(1.0), reading=reading(answer)) for answer in given)
    return replace(group([1.0] * len(given)), sample=one, reports=reports)


def texts(one: Sample, *, key: StepKey = KEY, place: int = 0, near_right: bool = False) -> list[str]:
    """The texts of a sample's demonstrations; half of the boxes in its group are hits."""
    found: list[str] = []

    def grade(text: str, num_tokens: int) -> Any:
        found.append(text)
        return report(1.0)

    hits = answers(one, detections(*(item.box.xyxy for item in _items(one)), FAR)) if _items(one) else answers(one)
    rendered = render(replace(one, images=("a.png",)))
    demonstrate(hits, rendered, write=write, key=key, place=place, near_right=near_right, grade=grade)
    return found


def _items(one: Sample) -> Sequence[Any]:
    return one.target.items if isinstance(one.target, Detections) else ()


def boxes_of(text: str, one: Sample) -> list[Box]:
    answer = (
        TASKS["detection"]
        .read_for(text, one, thinking=False, space=BoxSpace.RELATIVE_1000, resized=one.target_size)
        .answer
    )
    assert isinstance(answer, Detections)
    return [item.box for item in answer.items]


MANY = sample(detections(*((10 * i, 10, 10 * i + 8, 60) for i in range(6))), size=(100, 100))


def test_the_confidence_is_the_hit_rate_of_the_groups_own_boxes() -> None:
    one = question()
    right = detections((20, 25, 80, 75))
    assert hit_rate(answers(one, right, detections(FAR), detections(FAR, (20, 25, 80, 75)))) == 0.5
    assert hit_rate(answers(one, detections())) == 1.0
    assert texts(one) == [RIGHT.replace("1.0", "0.5")]


def test_boxes_are_in_a_new_order_at_each_step_and_place_and_in_the_same_after_a_restart() -> None:
    first = texts(MANY)
    assert texts(MANY) == first
    others = [texts(MANY, key=StepKey(seed=0, step=step)) for step in range(4, 8)] + [texts(MANY, place=1)]
    assert len({*map(tuple, others), tuple(first)}) == 6
    by_edge = sorted(boxes_of(first[0], MANY), key=lambda one: one.x1)
    assert by_edge == [item.box for item in MANY.target.items]  # type: ignore[attr-defined]


def test_an_augmented_target_is_demonstrated_as_it_is() -> None:
    moved = replace(question(), target=detections((0, 0, 50, 50)))
    assert boxes_of(texts(moved)[0], moved) == [box(0, 0, 50, 50)]


def test_near_right_answers_follow_the_target_for_tasks_with_boxes() -> None:
    assert len(texts(MANY, near_right=True)) == 6
    assert [len(boxes_of(text, MANY)) for text in texts(MANY, near_right=True)] == [6, 6, 6, 6, 5, 7]
    grounding = sample(box(20, 25, 80, 75), task="grounding", size=(100, 100))
    # exactly one box: none missing, none twice
    assert len(texts(grounding, near_right=True)) == 4
    label = sample(Label(text="fox"), task="classification")
    assert texts(label, near_right=True) == ["<answer>fox</answer>"]
    assert texts(sample(detections()), near_right=True) == ["<answer>No Objects</answer>"]


def test_the_boxes_of_several_classes_have_their_labels() -> None:
    target = labelled(("fox", (10, 10, 40, 40)), ("hen", (50, 50, 90, 90)), classes=("fox", "hen", "owl"))
    one = sample(target, task="multiclass_detection", size=(100, 100))
    for text in texts(one, near_right=True):
        reading = TASKS[one.task].read_for(
            text, one, thinking=False, space=BoxSpace.RELATIVE_1000, resized=one.target_size
        )
        found = TASKS[one.task].answer_boxes(reading.answer, one.target)
        assert sum(hit.is_hit for hit in found) == min(len(found), 2)  # one is missing, or there twice


def test_success_is_the_mean_score_of_the_completions() -> None:
    assert success(answers(question(), detections((20, 25, 80, 75)), detections(FAR))) == 0.5


# --- weights ---


def test_the_coefficient_is_that_of_the_cross_entropy() -> None:
    # all completions are right: only the demonstrations teach
    metrics = trainer("loss", equal=True, demonstration_coef=0.5).step(0, SAMPLES).metrics
    assert metrics["demonstration_loss"] == pytest.approx(math.log(4))
    assert metrics["loss"] == pytest.approx(0.5 * math.log(4))
    # gradient of -0.5 log softmax: 0.5 x (1/4 - 1, 1/4, 1/4, 1/4)
    assert metrics["grad_norm"] == pytest.approx(0.5 * math.sqrt(0.75**2 + 3 * 0.25**2), rel=1e-5)
    assert metrics["demonstration_tokens"] == 2


def test_the_coefficient_moves_over_the_run() -> None:
    made = trainer("loss", num_steps=5, demonstration_coef=0.4, demonstration_coef_end=0.0)
    found = [made.step(number, SAMPLES).metrics for number in range(5)]
    assert [one["demonstration_coef"] for one in found] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert "demonstration_loss" in found[3] and "demonstration_loss" not in found[4]


def test_the_coefficient_fades_with_the_success_of_each_group() -> None:
    # all four completions of "a" are right, two of "b"
    metrics = trainer("loss", equal={"a"}, demonstration_coef=0.4, demonstration_fade=True).step(0, SAMPLES).metrics
    assert metrics["demonstration_coef"] == pytest.approx((0.0 + 0.2) / 2)
    # only "b" is in the row, and its denominator is that of both demonstrations
    assert metrics["demonstration_tokens"] == 1
    assert metrics["demonstration_loss"] == pytest.approx(math.log(4))


def test_the_advantage_of_a_demonstration_vanishes_as_the_policy_succeeds() -> None:
    failing = trainer("group", scale_by_std=False).step(0, SAMPLES).metrics
    # the demonstration earns 3, its confidence is the hit rate 1 of the only boxes; half of the completions earn 1
    assert failing["demonstration_advantage"] == 1.0
    solved = trainer("group", equal=True).step(0, SAMPLES).metrics
    assert solved["demonstration_advantage"] == 0.0
    assert solved["demonstration_tokens"] == 0
    assert "loss" not in solved


@pytest.mark.parametrize("mode", ["off", "loss", "group"])
def test_advantages_are_computed_once_a_step(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = trainer(mode, scale_by_std=False), []

    def counted(config: Any, groups: Sequence[RolloutGroup], demonstrations: Any) -> Any:
        calls.append(len(groups))
        return advantages_of(config, groups, demonstrations)

    monkeypatch.setattr("virft.training.grpo.trainer.advantages_of", counted)
    monkeypatch.setattr("virft.training.grpo.demonstration_weights.advantages_of", None)
    made.step(0, SAMPLES)
    assert calls == [2]


def test_a_demonstration_has_no_importance_weight() -> None:
    # the engine's log-probs differ by 0.5 nats: weights of completions are exp(0.5), those of demonstrations 1
    found = [trainer("group", importance_cap=2.0, gaps=gaps) for gaps in ((0.0, 0.0), (0.5, 0.5))]
    losses = [one.step(0, SAMPLES).metrics for one in found]
    advantage = losses[0]["demonstration_advantage"]
    assert advantage > 0.5
    # completions: -sum of weight x advantage is 0 with equal weights; demonstrations: -mean of advantages x 2 / 8
    assert [one["loss"] for one in losses] == pytest.approx([-advantage / 4] * 2, abs=1e-6)


def test_confidence_digits_have_no_gradient() -> None:
    made = trainer("loss", equal=True)
    made.write_target = lambda one, rendered: WrittenTarget(text="", token_ids=(1, 3), in_loss=(True, False))
    other = trainer("loss", equal=True)
    assert made.step(0, SAMPLES).metrics["loss"] == other.step(0, SAMPLES).metrics["loss"]
    assert torch.equal(weight(made), weight(other))


def test_a_sample_without_a_demonstration_is_trained_as_before() -> None:
    made = trainer("loss")
    made.write_target = lambda one, rendered: None
    metrics, plain = made.step(0, SAMPLES).metrics, toy_trainer().step(0, SAMPLES).metrics
    assert {name: metrics[name] for name in plain} == plain


def test_a_demonstration_whose_reward_is_not_finite_skips_the_step() -> None:
    made = trainer("group")
    seen: list[str] = []

    class Broken(Grader):
        def reward(self, reading: Reading, sample: Sample, context: RewardContext) -> RewardReport:
            if context.num_tokens == 1 and "1.0" in reading.text and len(seen) >= 8:
                raise NonFiniteReward("reward f is nan")
            seen.append(reading.text)
            return super().reward(reading, sample, context)

    made.grader = Broken(rule=made.grader.rule, thinking=made.grader.thinking, box_space=made.grader.box_space)
    found = made.step(0, SAMPLES)
    assert found.nonfinite is not None and found.nonfinite.samples == ("a", "b")
    assert found.nonfinite.why == "reward f is nan"
    assert weight(made).tolist() == [0.0] * 4


# --- leaks ---

SETTINGS: dict[str, dict[str, Any]] = {
    "loss of coefficient 0": {"demonstrations": "loss", "demonstration_coef": 0.0},
    "member without an advantage": {"demonstrations": "group"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("updates", [1, 2])
def test_a_demonstration_of_weight_0_changes_no_metric_and_no_gradient_by_a_bit(
    settings: dict[str, Any], updates: int
) -> None:
    # rewards above that of the demonstration
    rewards = tuple(tuple(3 + value for value in values) for values in (VARIED, EQUAL))
    common = {"updates_per_batch": updates, "microbatch_tokens": 30}
    found = outcome(Case(rewards=rewards, settings=settings | common), "ddp", Ranks())
    plain = outcome(Case(rewards=rewards, settings=common), "ddp", Ranks())
    own = {"demonstration_tokens", "demonstration_coef", "demonstration_advantage"}
    assert {name: value for name, value in found["metrics"].items() if name not in own} == plain["metrics"]
    assert found["metrics"]["demonstration_tokens"] == 0
    for name in ("gradients", "weights"):
        for a, b in zip(_flat(found[name]), _flat(plain[name]), strict=True):
            assert torch.equal(a, b)
    assert found["rollout"] == plain["rollout"]


SAMPLED = (
    "reward", "reward_iou", "reward_confidence", "reward_format", "completion_tokens", "unreadable_frac",
    "at_most_1_frac", "truncated_frac", "nonzero_std_frac", "entropy", "boxes_per_answer", "duplicate_frac",
)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"demonstrations": "loss", "demonstration_coef": 5.0},
        {"demonstrations": "group", "near_right": True},
        {"demonstrations": "group", "demonstration_in_mean": True},
    ],
)
def test_demonstrations_never_enter_the_metrics_and_records_of_completions(settings: dict[str, Any]) -> None:
    made = trainer(settings["demonstrations"], **{k: v for k, v in settings.items() if k != "demonstrations"})
    found, plain = made.step(0, SAMPLES), toy_trainer().step(0, SAMPLES)
    assert {name: found.metrics[name] for name in SAMPLED} == {name: plain.metrics[name] for name in SAMPLED}
    assert found.metrics["demonstration_tokens"] >= 2
    assert [asdict(one) for one in found.groups] == [asdict(one) for one in plain.groups]
    record, other = dict(found.rollout_record or {}), dict(plain.rollout_record or {})
    for one in (record, other):
        for name in ("best", "worst"):
            one[name] = {key: value for key, value in one[name].items() if key != "advantage"}
    assert record == other


def test_recorded_advantages_are_those_of_the_update() -> None:
    record = trainer("group", demonstration_in_mean=True, scale_by_std=False).step(0, SAMPLES).rollout_record
    assert record is not None
    # rewards 1, 3, 1, 3 and the demonstration's 3: mean 2.2
    assert (record["best"]["advantage"], record["worst"]["advantage"]) == pytest.approx((0.8, -1.2))


def test_demonstrations_without_targets_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="need targets"):
        toy_trainer(demonstrations="loss").step(0, SAMPLES)


def test_a_reward_is_only_that_of_a_member() -> None:
    one = Demonstration(token_ids=(1,), in_loss=(True,), is_target=True)
    with pytest.raises(AssertionError, match="only a member"):
        one.reward  # noqa: B018


def _flat(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else [tensor for one in found for tensor in _flat(one)]
