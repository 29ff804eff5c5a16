"""Two processes with half of the groups each do what one process does: loss, gradients, weights, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from process_cases import CASES, CPU, STRATEGIES, Case, assert_learnt_alike, checkpointed, outcome, run_process, run_two
from virft.training.distributed import Ranks

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    """What came of every case in each of two processes, connected by gloo; their checkpoints are in ``folder``."""
    return run_two(run_process, folder)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """The same cases by this process."""
    return {name: outcome(case, "ddp", Ranks()) for name, case in CASES.items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_the_step_of_one(name: str, strategy: str, both: Any, alone: Any) -> None:
    expected = alone[name]
    for found in (one[f"{strategy}: {name}"] for one in both):
        assert_learnt_alike(found, expected, atol=TOLERANCE)
        assert len(found["gradients"]) == len(expected["gradients"])
        torch.testing.assert_close(found["gradients"], expected["gradients"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_the_cases_are_not_trivial(name: str, alone: Any) -> None:
    # 55 weights of Qwen2-VL, the fewest; 21 matrices with two adapters each
    clear = sum(bool(one.abs().max() > 100 * TOLERANCE) for step in alone[name]["gradients"][:1] for one in step)
    least = {"nothing to learn": 0, "adapters": 42}.get(name, 20)
    assert clear >= least
    assert (clear == 0) is (name == "nothing to learn")


def test_the_comparison_fails_for_other_groups(alone: Any) -> None:
    # without the groups of the second process the same comparison fails, so it can fail
    half = outcome(Case(rewards=CASES["two groups"].rewards[:1]), "ddp", Ranks())
    with pytest.raises(AssertionError):
        torch.testing.assert_close(half["gradients"], alone["two groups"]["gradients"], atol=TOLERANCE, rtol=0)


def test_gathered_groups_have_the_order_of_the_batch(both: Any) -> None:
    assert [one["gathered"] for one in both] == [list("abcde")] * 2


def test_the_gathered_copy_samples_as_the_model_and_is_freed_afterwards(both: Any) -> None:
    for one in both:
        found = one["copies"]
        assert torch.equal(found["found"], found["expected"])
        assert found["dtypes"] == {"torch.bfloat16", "torch.float32"}
        assert found["left"] == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_two_processes_equals_that_of_one(
    strategy: str, both: Any, folder: Path, tmp_path: Path
) -> None:
    expected = checkpointed(tmp_path, Ranks(), strategy=strategy, resume=False)
    for one in both:
        for state in ("whole", "resumed"):
            torch.testing.assert_close(one[f"{strategy}: {state}"], expected, atol=1e-7, rtol=0)
    # one process resumes from the checkpoint of two
    torch.testing.assert_close(
        checkpointed(folder / strategy, Ranks(), strategy=strategy, resume=True), expected, atol=1e-7, rtol=0
    )


def test_different_weights_in_two_processes_are_refused(both: Any) -> None:
    message = (
        "RunError: the processes would begin with different weights; expected the same files of the model on every"
    )
    assert all(one["unequal"].startswith(message) for one in both)


def test_a_single_process_communicates_nothing() -> None:
    ranks = Ranks(device=CPU)
    assert (ranks.sum({"a": 1.5}), ranks.max(2.0), ranks.gather("ab")) == ({"a": 1.5}, 2.0, ["a", "b"])
    weight = torch.nn.Parameter(torch.ones(1))
    ranks.sum_gradients([weight])
    assert weight.grad is None
