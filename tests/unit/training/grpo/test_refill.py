"""Dynamic sampling: groups with zero reward variance are replaced by groups of other samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from toy_training import ToyGenerator, question, toy_trainer
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.monitors import SKIPPED
from virft.types import Sample


def trainer_with(equal: set[str], spares: Sequence[Sequence[str]], **settings: object) -> GRPOTrainer:
    """A trainer that may take the samples ``spares[round - 1]`` in a round; ``equal``: ids with equal rewards."""
    trainer = toy_trainer(equal=equal, refill_rounds=len(spares), **settings)
    trainer.refill = lambda number, turn: [question(name) for name in spares[turn - 1]]
    return trainer


def questions(names: str) -> list[Sample]:
    return [question(name) for name in names]


def calls(trainer: GRPOTrainer) -> list[list[str]]:
    assert isinstance(trainer.generator, ToyGenerator)
    return trainer.generator.calls


def weight(trainer: GRPOTrainer) -> torch.Tensor:
    (found,) = trainer.policy.parameters()
    return found.detach()


def test_groups_with_zero_reward_variance_are_replaced() -> None:
    trainer = trainer_with({"a", "d"}, ["de", "fg"])
    report = trainer.step(0, questions("abc"))
    assert calls(trainer) == [["0/a", "1/b", "2/c"], ["3/d"], ["6/f"]]
    assert [group.sample.id for group in report.groups] == ["a", "b", "c", "d", "f"]
    plain = toy_trainer()
    plain.step(0, questions("bcf"))
    assert torch.equal(weight(trainer), weight(plain))


def test_metrics_are_those_of_the_first_draw() -> None:
    trainer = trainer_with({"a"}, ["d"])
    metrics, plain = (one.step(0, questions("ab")).metrics for one in (trainer, toy_trainer(equal={"a"})))
    assert {name: metrics[name] for name in ("reward", "nonzero_std_frac")} == {"reward": 2.5, "nonzero_std_frac": 0.5}
    assert metrics["num_refilled"] == 1
    assert metrics["num_tokens"] == plain["num_tokens"] * 3 / 2
    assert "num_refilled" not in plain


def test_metrics_of_a_skipped_step_are_those_of_the_first_draw_too() -> None:
    trainer = trainer_with({"a"}, ["d"])
    with torch.no_grad():
        weight(trainer)[3] = torch.nan
    metrics = trainer.step(0, questions("ab")).metrics
    assert metrics[SKIPPED] == 1
    assert {name: metrics[name] for name in ("reward", "nonzero_std_frac", "num_refilled")} == {
        "reward": 2.5,
        "nonzero_std_frac": 0.5,
        "num_refilled": 1,
    }


def test_if_no_replacement_has_variance_the_step_is_unchanged() -> None:
    trainer, plain = trainer_with({"a", "d", "e"}, ["d", "e"]), toy_trainer(equal={"a"})
    metrics = trainer.step(0, questions("ab")).metrics
    plain.step(0, questions("ab"))
    assert metrics["num_refilled"] == 0
    assert torch.equal(weight(trainer), weight(plain))
    assert weight(plain).abs().max() > 0


def test_no_replacement_is_drawn_if_all_groups_have_variance() -> None:
    trainer = trainer_with(set(), ["d"])
    trainer.step(0, questions("ab"))
    assert calls(trainer) == [["0/a", "1/b"]]


def test_a_sample_that_recurs_gets_another_random_stream() -> None:
    trainer = trainer_with({"a"}, ["b", "b"])
    trainer.step(0, questions("ab"))
    assert calls(trainer) == [["0/a", "1/b"], ["2/b"]]
