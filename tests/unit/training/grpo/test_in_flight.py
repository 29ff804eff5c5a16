"""One step off-policy: groups are sampled before the update of the step before the one that trains on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from group_factories import completion
from toy_training import ToyGenerator, question, toy_trainer
from virft.errors import DataError, RunError, SamplerLost
from virft.generation.generator import Sampling
from virft.models.renderer import RenderedPrompt
from virft.training.grpo.in_flight import SavedFlight, format_flight, parse_flight
from virft.training.grpo.trainer import GRPOReport, GRPOTrainer
from virft.types import Sample

NUM_STEPS = 4
BATCHES = ["ab", "cd", "ea", "bc"]


def questions(names: str) -> list[Sample]:
    return [question(name) for name in names]


def following(number: int) -> Callable[[int], Sequence[Sample]]:
    return lambda ahead: questions(BATCHES[number + ahead]) if number + ahead < NUM_STEPS else ()


def stale_trainer(**settings: Any) -> GRPOTrainer:
    return toy_trainer(max_staleness=1, importance_cap=2.0, **settings)


def steps(trainer: GRPOTrainer, numbers: Sequence[int] = range(NUM_STEPS)) -> list[GRPOReport]:
    reports = [trainer.step(number, questions(BATCHES[number]), following(number)) for number in numbers]
    assert all(isinstance(one, GRPOReport) for one in reports)
    return reports  # type: ignore[return-value]


def weights(trainer: GRPOTrainer) -> list[float]:
    (found,) = trainer.policy.parameters()
    return list(found.tolist())


def sampled_with(reports: Sequence[GRPOReport]) -> list[float]:
    """The log-prob of the correct answer, in each step, under the weights that sampled it."""
    return [report.groups[0].completions[1].sampler_logprobs[0] for report in reports]


def test_a_step_trains_on_what_the_weights_before_the_last_update_sampled() -> None:
    strict = toy_trainer(importance_cap=2.0)
    first = sampled_with(steps(strict, range(1)))[0]
    reports = steps(stale_trainer())
    # steps 0 and 1 have the weights that the run starts with
    assert sampled_with(reports)[:2] == [first, first]
    assert sampled_with(reports)[2] != first
    assert [[group.policy_step for group in report.groups] for report in reports] == [[0, 0], [0, 0], [1, 1], [2, 2]]
    assert [report.metrics["staleness"] for report in reports] == [0, 1, 1, 1]
    assert [report.rollout_record["staleness"] for report in reports if report.rollout_record] == [0, 1, 1, 1]


def test_the_first_step_is_that_of_an_on_policy_run_and_later_ones_are_weighted() -> None:
    stale, strict = stale_trainer(), toy_trainer(importance_cap=2.0)
    assert [(steps(one, range(1)), weights(one))[1] for one in (stale, strict)] == [weights(strict)] * 2
    policy = torch.log_softmax(torch.tensor(weights(stale)), -1)
    (report,) = steps(stale, [1])
    gaps = [policy[token] - math.log(1 / 4) for token in (2, 1)]
    assert report.metrics["sampler_gap_mean"] == pytest.approx(sum(map(abs, gaps)).item() / 2, abs=1e-6)


def test_random_streams_and_samples_are_those_of_an_on_policy_run() -> None:
    trainers = stale_trainer(), toy_trainer(importance_cap=2.0)
    for one in trainers:
        steps(one)
    calls, keys = zip(*((one.generator.calls, one.generator.keys) for one in trainers), strict=True)  # type: ignore[attr-defined]
    assert calls[0] == calls[1]
    assert keys[0] == keys[1]


def test_replacements_of_groups_are_sampled_with_the_current_weights() -> None:
    trainer = stale_trainer(equal={"c"}, refill_rounds=1)
    trainer.refill = lambda number, turn: questions("a")
    reports = steps(trainer)
    staleness = [[number - group.policy_step for group in report.groups] for number, report in enumerate(reports)]
    assert staleness == [[0, 0], [1, 1, 0], [1, 1], [1, 1, 0]]
    assert reports[1].metrics["staleness"] == pytest.approx(2 / 3)
    assert max(max(one) for one in staleness) <= trainer.max_staleness


def test_a_skipped_step_does_not_increase_the_staleness() -> None:
    trainer = stale_trainer()
    generator: Any = trainer.generator
    steps(trainer, [0])
    (parameter,) = trainer.policy.parameters()
    with torch.no_grad():
        saved = parameter.clone()
        parameter[3] = torch.nan
    (skipped,) = steps(trainer, [1])
    assert skipped.nonfinite is not None
    with torch.no_grad():
        parameter.copy_(saved)
    (report,) = steps(trainer, [2])
    assert report.metrics["staleness"] == 1
    assert [key.step for key in generator.keys] == [0, 1, 2, 3]


def test_the_last_step_samples_nothing_ahead() -> None:
    trainer = stale_trainer()
    steps(trainer)
    assert trainer.in_flight() == ""
    assert len(trainer.generator.calls) == NUM_STEPS  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_restored_trainer_continues_with_the_same_completions(cut: int) -> None:
    whole, first = stale_trainer(), stale_trainer()
    expected = steps(whole)
    steps(first, range(cut))
    second = stale_trainer()
    second.policy.load_state_dict(first.policy.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.restore_in_flight(first.in_flight())
    found = steps(second, range(cut, NUM_STEPS))
    assert [one.metrics for one in found] == [one.metrics for one in expected[cut:]]
    assert weights(second) == weights(whole)


def test_a_rollback_forgets_what_was_sampled_ahead() -> None:
    trainer = stale_trainer()
    steps(trainer, [0])
    saved = trainer.in_flight()
    steps(trainer, [1])
    trainer.restore_in_flight(saved)
    (repeated,) = steps(trainer, [1])
    assert [group.sample.id for group in repeated.groups] == list("cd")
    assert [group.policy_step for group in repeated.groups] == [0, 0]
    assert [key.step for key in trainer.generator.keys] == [0, 1, 2, 2]  # type: ignore[attr-defined]


def test_completions_of_other_samples_are_refused() -> None:
    trainer = stale_trainer()
    trainer.restore_in_flight(format_flight(SavedFlight(2, 1, ["a"], [[completion([1])]])))
    with pytest.raises(RunError, match=r"completions of step 3 for the samples a; expected e, a$"):
        steps(trainer, [2])


def test_a_completion_is_restored_to_the_last_bit() -> None:
    one = completion([5, 6], logprobs=[-1 / 3, -1e-300], text='ä "\u2028" \n', cut=True)
    saved = SavedFlight(7, 6, ["a", "b"], [[one], []])
    assert parse_flight(format_flight(saved)) == saved
    assert parse_flight("") is None


def test_an_image_that_cannot_be_read_ends_the_run_in_its_own_step() -> None:
    trainer = stale_trainer()
    readable = trainer.render

    def render(one: Sample) -> RenderedPrompt:
        if one.id == "e":
            raise DataError("e.png: no image")
        return readable(one)

    trainer.render = render
    trainer.__post_init__()
    steps(trainer, [0, 1])
    assert trainer.in_flight() == ""
    with pytest.raises(DataError, match=r"e\.png"):
        steps(trainer, [2])


def test_an_engine_in_another_process_samples_during_the_update() -> None:
    """Its completions are not waited for before the next step, or before a checkpoint."""
    events: list[str] = []

    class Engine(ToyGenerator):
        def begin(self, prompts: Any, *arguments: Any) -> Sampling:
            found = self.generate(prompts, *arguments)
            events.append("begin")

            def wait() -> Any:
                events.append("wait")
                return found

            return wait

        def update(self) -> None:
            events.append("update")

    trainer = stale_trainer()
    trainer.generator = Engine(trainer.policy)  # type: ignore[arg-type]
    steps(trainer, [0, 1])
    trainer.in_flight()
    assert events == ["begin", "update", "wait", "begin", "update", "wait"]


def test_a_failure_of_the_engine_is_raised_by_the_step_that_needs_its_completions(tmp_path: Path) -> None:
    trainer = stale_trainer()

    def fail() -> Any:
        raise RuntimeError("the engine died")

    trainer.generator.begin = lambda *arguments: fail  # type: ignore[method-assign]
    steps(trainer, [0])
    with pytest.raises(RuntimeError, match="the engine died"):
        steps(trainer, [1])


def test_after_the_loss_of_all_engines_a_step_is_sampled_anew_with_the_current_weights() -> None:
    """As a resumed run does, whose checkpoint has no completions in flight."""
    lost: list[int] = []

    class Engine(ToyGenerator):
        def begin(self, prompts: Any, *arguments: Any) -> Sampling:
            found = self.generate(prompts, *arguments)
            step = arguments[-1].step

            def wait() -> Any:
                if step == 2:
                    lost.append(step)
                    raise SamplerLost("no vLLM server is left to sample with")
                return found

            return wait

    trainer = stale_trainer()
    trainer.generator = Engine(trainer.policy)  # type: ignore[arg-type]
    first = steps(trainer, [0, 1])
    assert trainer.in_flight() == ""
    current = weights(trainer)
    second = steps(trainer, [2, 3])
    assert lost == [2, 2]
    assert [one.metrics["staleness"] for one in (*first, *second)] == [0, 1, 0, 1]
    resumed = stale_trainer()
    resumed.generator = Engine(resumed.policy)  # type: ignore[arg-type]
    steps(resumed, [0, 1])
    assert weights(resumed) == current
    resumed.restore_in_flight("")
    assert sampled_with(steps(resumed, [2, 3])) == sampled_with(second)
    assert weights(resumed) == weights(trainer)
