"""One step of training, with a toy in place of the model; exactness on real models is in ``tests/parity``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from factories import box, detections, reading, sample
from group_factories import completion, group, report
from toy_training import question, toy_trainer
from virft.models.vision import FeatureCache
from virft.tasks.reward import RewardRule
from virft.training.grpo.group_metrics import group_metrics, rollout_record
from virft.training.step import NonFinite
from virft.types import Answer, Augmentation, Detections, RewardReport, RolloutGroup, Unreadable

SAMPLES = [question("a"), question("b")]


def toy(trainer: Any) -> Any:
    """The toy policy of a trainer."""
    return trainer.policy


def test_a_step_increases_the_probability_of_the_better_completion() -> None:
    trainer = toy_trainer()
    trainer.step(0, SAMPLES)
    weight = toy(trainer).weight.detach()
    assert weight[1] > 0 > weight[2]


def test_metrics_of_a_step_have_reward_loss_gradient_norm_and_learning_rate() -> None:
    metrics = toy_trainer().step(0, SAMPLES).metrics
    # half of the answers earn 3, half earn 1
    assert metrics["reward"] == 2.0
    assert metrics["reward_iou"] == 0.5
    assert metrics["learning_rate"] == 0.1
    assert metrics["sampler_gap"] == 0.0
    assert metrics["loss"] == pytest.approx(0.0, abs=1e-6)
    # gradient of token 1: 2 of 4 completions, weight 1 / 4 each, advantage 1 / (1.1547 + 0.0001): -0.43298,
    # token 2 the opposite; the softmax's own part is 0 as advantages add up to 0
    assert metrics["grad_norm"] == pytest.approx(math.sqrt(2) * 0.5 / (math.sqrt(4 / 3) + 1e-4), rel=1e-5)
    assert {"kl", "clip_frac"}.isdisjoint(metrics)


def test_timings_name_every_stage() -> None:
    assert list(toy_trainer().step(0, SAMPLES).timings) == [
        "images", "sampling", "reward", "pack", "reference", "update",
    ]  # fmt: skip


def test_a_step_with_zero_reward_variance_changes_nothing() -> None:
    trainer = toy_trainer(equal=True)
    metrics = trainer.step(0, SAMPLES).metrics
    assert toy(trainer).weight.tolist() == [0.0] * 4
    assert metrics["nonzero_std_frac"] == 0.0
    assert "loss" not in metrics


def test_the_gap_to_the_sampler_is_that_before_the_first_update() -> None:
    metrics = toy_trainer(updates_per_batch=3, max_grad_norm=1e9).step(0, SAMPLES).metrics
    assert metrics["sampler_gap"] == 0.0
    # the other numbers are the last update's: after two of rate 0.1 on both tokens the ratio of the better one
    # is about exp(0.2), above 1.2, and so is clipped; that of the worse one, about exp(-0.2), is above 0.8
    assert metrics["loss"] < -0.01
    assert metrics["clip_frac"] == 0.5


def test_operations_of_all_updates_of_a_step_are_counted_unless_none_was_made() -> None:
    counted = toy_trainer(updates_per_batch=3, microbatch_tokens=7)
    counted.runner.count_update = lambda row: len(row.token_ids)
    # two prompts of 3 tokens, each once, and 4 completions of 1 token
    assert counted.step(0, SAMPLES).metrics["update_flops"] == 3 * 2 * (3 + 4)
    assert "update_flops" not in toy_trainer().step(0, SAMPLES).metrics
    equal = toy_trainer(equal=True)
    equal.runner.count_update = lambda row: 1
    assert "update_flops" not in equal.step(0, SAMPLES).metrics


def test_the_sampler_gets_the_weights_that_a_rollback_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = toy_trainer()
    calls: list[str] = []
    sample = trainer.generator.generate
    monkeypatch.setattr(trainer.generator, "update", lambda: calls.append("update"))
    monkeypatch.setattr(trainer.generator, "generate", lambda *a: calls.append("generate") or sample(*a))
    for number in (0, 1, 0):
        trainer.step(number, SAMPLES)
    assert calls == ["generate", "update", "generate", "update", "update", "generate", "update"]


def test_a_lost_sampler_is_reported_with_its_step() -> None:
    trainer = toy_trainer()
    trainer.sampler_messages = lambda: ["vLLM server 1 is gone"]
    assert trainer.step(4, SAMPLES).warning == "step 5: vLLM server 1 is gone"


def test_the_learning_rate_follows_the_schedule() -> None:
    trainer = toy_trainer(num_steps=4)
    assert [trainer.step(number, SAMPLES).metrics["learning_rate"] for number in range(4)] == pytest.approx(
        [0.1, 0.075, 0.05, 0.025]
    )


def test_the_reference_is_needed_only_with_a_kl_term() -> None:
    trainer = toy_trainer(kl_coef=0.1)
    with pytest.raises(AssertionError, match="needs a reference"):
        trainer.step(0, SAMPLES)


def test_a_frozen_reference_pulls_back() -> None:
    free, held = toy_trainer(num_steps=30), toy_trainer(num_steps=30, kl_coef=2.0)
    held.reference = type(toy(held))()
    for number in range(30):
        free.step(number, SAMPLES)
        metrics = held.step(number, SAMPLES).metrics
    assert metrics["kl"] > 0
    assert toy(held).weight.abs().max() < toy(free).weight.abs().max()


def test_the_weight_of_kl_moves_over_the_run() -> None:
    trainer = toy_trainer(num_steps=5, kl_coef=0.04, kl_coef_end=0.0, updates_per_batch=2)
    trainer.reference = toy(toy_trainer())
    found = [trainer.step(number, SAMPLES).metrics for number in range(5)]
    assert [one["kl_coef"] for one in found] == pytest.approx([0.04, 0.03, 0.02, 0.01, 0.0])
    assert found[-1]["kl"] > 0


def test_a_kl_term_that_begins_at_nothing_needs_a_reference_and_pulls_back_later() -> None:
    trainer, free = toy_trainer(num_steps=2, kl_coef_end=50.0), toy_trainer(num_steps=2)
    assert trainer.config.has_reference and not free.config.has_reference
    trainer.reference = toy(toy_trainer())
    for one in (trainer, free):
        one.learning_rate_at = lambda number: 0.1
        one.step(0, SAMPLES)
    assert torch.equal(toy(trainer).weight, toy(free).weight)
    for one in (trainer, free):
        one.step(1, SAMPLES)
    assert toy(trainer).weight[1] < toy(free).weight[1]


def test_a_completion_near_the_length_limit_is_penalized() -> None:
    trainer = toy_trainer()
    trainer.grader = replace(trainer.grader, rule=RewardRule(overlong_tokens=8))
    # 1 of 8 tokens
    assert trainer.step(0, SAMPLES).metrics["reward_overlong"] == pytest.approx(-1 / 8)


def test_a_sample_that_comes_twice_in_a_step_has_two_random_streams() -> None:
    trainer = toy_trainer()
    trainer.step(2, [question("a"), question("a")])
    generator: Any = trainer.generator
    assert generator.calls == [["0/a", "1/a"]]
    assert (generator.keys[0].seed, generator.keys[0].step) == (3, 2)


def test_images_of_a_frozen_tower_are_encoded_once_a_run() -> None:
    cached, plain = toy_trainer(feature_cache=FeatureCache()), toy_trainer()
    for number in range(3):
        cached.step(number, SAMPLES)
        plain.step(number, SAMPLES)
    assert (toy(cached).encoded, toy(plain).encoded) == (2, 6)


def test_features_of_an_augmented_image_are_not_cached() -> None:
    cache = FeatureCache()
    trainer = toy_trainer(feature_cache=cache)
    seen = [replace(sample, augmentation=Augmentation(crop=(0, 0, 50, 50))) for sample in SAMPLES]
    for number in range(2):
        trainer.step(number, seen)
    assert toy(trainer).encoded == 4
    assert (cache.hits, cache.misses) == (0, 0)


def test_a_nonfinite_loss_leaves_the_weights_and_names_the_samples() -> None:
    # the first of two microbatches: 3 + 4 tokens each
    trainer = toy_trainer(microbatch_tokens=7)
    real, rows = trainer.policy.forward, iter([True, False])

    def forward(row: Any, **more: Any) -> torch.Tensor:
        return real(row, **more) * (math.nan if next(rows) else 1.0)

    trainer.policy.forward = forward  # type: ignore[method-assign]
    report = trainer.step(7, SAMPLES)
    assert report.nonfinite == NonFinite(what="loss", samples=("a",))
    assert report.metrics["skipped"] == 1
    assert report.metrics["reward"] == 2.0
    assert {"loss", "grad_norm"}.isdisjoint(report.metrics)
    assert toy(trainer).weight.tolist() == [0.0] * 4
    assert not trainer.optimizer.state and toy(trainer).weight.grad is None


def test_a_nonfinite_gradient_leaves_the_weights_and_names_all_samples_of_the_step() -> None:
    trainer = toy_trainer()
    toy(trainer).weight.register_hook(lambda gradient: gradient * math.inf)
    report = trainer.step(0, SAMPLES)
    assert report.nonfinite == NonFinite(what="gradient norm", samples=("a", "b"))
    assert toy(trainer).weight.tolist() == [0.0] * 4
    assert not trainer.optimizer.state and toy(trainer).weight.grad is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nonfinite_reward_skips_the_step_and_names_its_sample(value: float) -> None:
    def odd(reading: Any, target: Any, context: Any) -> float:
        return value if reading.text == "odd" else 0.5

    trainer = toy_trainer()
    trainer.grader = replace(trainer.grader, rule=RewardRule(extra=(odd,)))
    drawn = trainer.generator.generate
    trainer.generator.generate = lambda *given: [  # type: ignore[method-assign]
        [replace(one, text="odd") if place == number == 0 else one for number, one in enumerate(of_prompt)]
        for place, of_prompt in enumerate(drawn(*given))
    ]
    report = trainer.step(0, SAMPLES)
    why = f"reward.extra: test_trainer.py:odd returned {value}; expected a finite number in [-1, 1]"
    assert report.nonfinite == NonFinite(what="reward", samples=("a",), why=why)
    # what is counted is the other group: 2 of its own, 0.5 of the extra
    assert (report.metrics["reward"], report.metrics["skipped"]) == (2.5, 1)
    assert report.rollout_record is not None and report.rollout_record["sample"] == "b"
    assert toy(trainer).weight.tolist() == [0.0] * 4


def test_one_completion_of_each_image_counts_as_its_answer() -> None:
    groups = [group([0.0, 1.0], id=f"{i}") for i in range(4)]
    groups = [replace(one, sample=sample(id=f"{i}", image=f"{i}.png")) for i, one in enumerate(groups)]
    metrics = group_metrics(groups)
    # all answers are "no objects", all targets the same fox
    assert (metrics["common_answer_frac"], metrics["common_target_frac"]) == (1.0, 1.0)
    assert "common_answer_frac" not in group_metrics(groups[:3])


def test_metrics_are_means_over_completions() -> None:
    groups = [group([0.0, 1.0], [1, 3]), group([2.0, 2.0], [2, 2], id="b")]
    metrics = group_metrics(groups)
    assert metrics["reward"] == 1.25  # (0 + 1 + 2 + 2) / 4
    assert metrics["completion_tokens"] == 2.0  # (1 + 3 + 2 + 2) / 4
    assert metrics["nonzero_std_frac"] == 0.5
    assert metrics["unreadable_frac"] == metrics["truncated_frac"] == 0.0
    # log-probs -1; -2, -2.1, -2.2; -1, -1.1; -2, -2.1: 13.5 over 8 tokens
    assert metrics["entropy"] == pytest.approx(13.5 / 8)


def test_boxes_and_duplicates_are_counted_over_detection_answers() -> None:
    once, moved, far = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)  # the second overlaps the first by 0.8
    answers = [detections(once, moved, far, once), detections(), detections(far)]
    reports = tuple(RewardReport(total=0.0, parts={}, reading=reading(answer)) for answer in answers)
    one = made(group([0.0, 0.0, 0.0, 0.0]), reports=(*reports, report(0.0, unreadable=True)))
    metrics = group_metrics([one])
    # 5 boxes in 3 answers that could be read; two of the first answer's repeat its first
    assert (metrics["boxes_per_answer"], metrics["duplicate_frac"]) == (5 / 3, 2 / 5)
    of_labels = made(
        one,
        sample=sample(box(0, 0, 9, 9), task="grounding"),
        reports=tuple(RewardReport(total=0.0, parts={}, reading=reading(box(0, 0, 9, 9))) for _ in range(4)),
    )
    assert {"boxes_per_answer", "duplicate_frac"}.isdisjoint(group_metrics([of_labels]))


def made(one: RolloutGroup, **changes: Any) -> RolloutGroup:
    fields = {name: getattr(one, name) for name in one.__slots__}
    return RolloutGroup(**fields | changes)


def test_unreadable_and_truncated_completions_are_counted() -> None:
    one = made(
        group([0.0, 1.0]),
        completions=(completion([1], cut=True), completion([1])),
        reports=(report(0.0, unreadable=True, iou=0.0), report(1.0, iou=0.5, label=1.0)),
    )
    metrics = group_metrics([one])
    assert (metrics["unreadable_frac"], metrics["truncated_frac"]) == (0.5, 0.5)
    # a part that only some tasks have is the mean over those
    assert (metrics["reward_iou"], metrics["reward_label"]) == (0.25, 1.0)


def test_the_rollout_record_has_best_and_worst_of_the_widest_group() -> None:
    texts = (completion([1], text="bad"), completion([2], text="good"), completion([3], text="fair"))
    wide = made(group([0.1, 0.9, 0.5], id="wide"), completions=texts)
    record = rollout_record([group([0.4, 0.5]), wide], 6, scale_by_std=False)
    assert (record["step"], record["sample"], record["rewards"]) == (6, "wide", [0.1, 0.9, 0.5])
    assert (record["best"]["text"], record["best"]["reward"]) == ("good", 0.9)
    assert (record["worst"]["text"], record["worst"]["reward"]) == ("bad", 0.1)
    # 0.9 and 0.1 less the mean of 0.5
    assert (record["best"]["advantage"], record["worst"]["advantage"]) == (0.4, -0.4)


def test_the_rollout_record_has_the_parsed_boxes() -> None:
    def answered(*answers: Answer, task: str) -> RolloutGroup:
        """A group whose first completion is the best one."""
        reports = tuple(RewardReport(total=-i, parts={}, reading=reading(answer)) for i, answer in enumerate(answers))
        return made(group([0.0] * len(answers)), sample=sample(task=task), reports=reports)

    pair = answered(detections((1, 2, 3, 4.125), confidence=0.5), Detections(), task="detection")
    record = rollout_record([pair], 0, scale_by_std=True)
    assert (record["best"]["boxes"], record["worst"]["boxes"]) == ([[1, 2, 3, 4.12, 0.5]], [])
    located = answered(box(5, 6, 7, 8), Unreadable(reason="?"), task="grounding")
    record = rollout_record([located], 0, scale_by_std=True)
    assert (record["best"]["boxes"], record["worst"]["boxes"]) == ([[5, 6, 7, 8, 1.0]], [])


def test_the_generator_gets_new_weights_once_a_step() -> None:
    trainer = toy_trainer(updates_per_batch=2)
    generator: Any = trainer.generator
    counts = []
    for number in range(2):
        trainer.step(number, SAMPLES)
        counts.append(generator.num_updates)
    assert counts == [1, 2]


GAPS = (math.log(1.5), math.log(4.0))
"""The policy gives the correct completion 1.5 times and the other 4 times the probability of the engine."""


def test_tokens_of_another_engine_have_importance_weights() -> None:
    metrics = toy_trainer(gaps=GAPS, importance_cap=2.0).step(0, SAMPLES).metrics
    assert metrics["sampler_gap"] == pytest.approx(math.log(4), rel=1e-5)
    assert metrics["sampler_gap_mean"] == pytest.approx((math.log(1.5) + math.log(4)) / 2, rel=1e-5)
    assert metrics["capped_frac"] == 0.5
    # half of the weight is on token 1 with advantage A and weight 1.5, half on token 2 with -A and the cap, 2:
    # 0.75 A and -A, together -0.25 A, of which the softmax gives a quarter back to each of the four tokens
    advantage = 1 / (math.sqrt(4 / 3) + 1e-4)
    gradient = [0.75 + 0.0625, -1 + 0.0625, 0.0625, 0.0625]
    norm = advantage * math.sqrt(sum(part**2 for part in gradient))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_clipped_ratio_is_to_the_policy_before_the_step_not_to_the_engine() -> None:
    settings: dict[str, Any] = {"updates_per_batch": 3, "max_grad_norm": 1e9, "importance_cap": 5.0}
    metrics = toy_trainer(gaps=(0.5, 0.5), **settings).step(0, SAMPLES).metrics
    # as without a gap: to the engine both ratios would be above exp(0.3), and only one of two would be clipped at all
    assert metrics["clip_frac"] == 0.5
    same = toy_trainer(**settings).step(0, SAMPLES).metrics
    assert metrics["loss"] == pytest.approx(same["loss"] * math.exp(0.5), rel=1e-4)
    assert metrics["sampler_gap_mean"] == pytest.approx(0.5, rel=1e-5)


def test_a_large_gap_between_engine_and_policy_gives_a_warning() -> None:
    far = toy_trainer(gaps=(0.3, 0.1), importance_cap=2.0, max_gap=0.1).step(0, SAMPLES)
    assert far.warning is not None
    assert far.warning.startswith(
        "step 1: the log-probs of sampler and policy differ by 0.2 nats per token on average; "
    )
    near = toy_trainer(gaps=(0.1, 0.05), importance_cap=2.0, max_gap=0.1).step(0, SAMPLES)
    assert near.warning is None


def test_completions_of_the_policy_itself_are_not_corrected() -> None:
    report = toy_trainer(gaps=GAPS).step(0, SAMPLES)
    assert {"sampler_gap_mean", "capped_frac"}.isdisjoint(report.metrics)
    assert report.warning is None
