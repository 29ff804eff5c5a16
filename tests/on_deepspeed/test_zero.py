"""DeepSpeed's ZeRO in two processes on a CPU equals one process without it (``make test-deepspeed``)."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launched import launch
from process_cases import (
    CASES_OF_ZERO,
    ZERO,
    adam_steps,
    assert_learnt_alike,
    nonfinite_steps,
    outcome,
    run_two,
    run_zero,
)
from runs import files, log, one_thread, virft, write_config
from virft.training.distributed import Ranks

pytestmark = pytest.mark.deepspeed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    """Return the results of all cases in each of two processes; checkpoints are in ``folder``."""
    return run_two(run_zero, folder)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: outcome(case, "ddp", Ranks()) for name, case in CASES_OF_ZERO.items()}


@pytest.mark.parametrize("strategy", ZERO)
@pytest.mark.parametrize("name", CASES_OF_ZERO)
def test_two_processes_compute_the_step_of_one(name: str, strategy: str, both: Any, alone: Any) -> None:
    for one in both:
        assert_learnt_alike(one[f"{strategy}: {name}"], alone[name], atol=1e-6)


def test_bfloat16_equals_autocast_in_one_process(both: Any) -> None:
    assert [one["in bfloat16"] for one in both] == [True, True]


@pytest.mark.parametrize("strategy", ZERO)
def test_discarded_or_nonfinite_gradients_leave_no_trace(strategy: str, both: Any) -> None:
    expected = nonfinite_steps("ddp", Ranks())
    assert expected["unchanged"]
    for one in both:
        assert not math.isfinite(one[f"{strategy}: non-finite norm"])
        assert one[f"{strategy}: unchanged"]
        assert one[f"{strategy}: norm"] == pytest.approx(expected["norm"], rel=1e-5)
        torch.testing.assert_close(one[f"{strategy}: after"], expected["after"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("strategy", ZERO)
def test_a_checkpoint_equals_that_of_one_process(strategy: str, both: Any, folder: Path, tmp_path: Path) -> None:
    expected = adam_steps(tmp_path, "ddp", Ranks(), resume=False)
    for one in both:
        for state in ("whole", "resumed"):
            torch.testing.assert_close(one[f"{strategy}: {state}"], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(one[f"{strategy}: resumed"], one[f"{strategy}: whole"], atol=1e-7, rtol=0)
    # one process resumes from the checkpoint of two
    torch.testing.assert_close(adam_steps(folder / strategy, "ddp", Ranks(), resume=True), expected, atol=1e-5, rtol=0)
    states = [load_file(path / "step_000002" / "optimizer.safetensors") for path in (folder / strategy, tmp_path)]
    assert states[0].keys() == states[1].keys()
    torch.testing.assert_close(states[0], states[1], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "train"
    assert virft("build", "scenes", out, "--classes", "novel", "--questions", 12) == 0
    return out


SETTINGS = ("grpo.prompts_per_step=3", "grpo.learning_rate=1e-4", "grpo.kl_coef=0.04", "run.save_every=2")


def by_itself(*argv: object) -> subprocess.CompletedProcess[str]:
    """Run a verb in a process of its own: DeepSpeed connects the process with itself, and it stays connected."""
    command = [sys.executable, "-m", "virft", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=one_thread(), check=False)


@pytest.mark.parametrize(
    "more", [(), ("model.train=lora",), ("model.dtype=bfloat16", "parallel.offload_optimizer=true")], ids=str
)
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_a_run_of_two_processes_equals_that_of_one(
    strategy: str, more: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    run, alone = (tmp_path / name / "run" for name in ("both", "alone"))
    configs = []
    for one in (run, alone):
        one.parent.mkdir()
        configs.append(write_config(one.parent, data))
    own = [setting for setting in more if not setting.startswith("parallel")]
    assert virft("grpo", configs[1], *SETTINGS, *own) == 0
    settings = (*SETTINGS, *more, f"parallel.strategy={strategy}")
    done = launch("grpo", configs[0], *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 1/3") == done.stdout.count("saved model: ") == 1, "one process prints"
    records = log(run), log(alone)
    assert [one["step"] for one in records[0]] == [0, 1, 2]
    for one, other in zip(*records, strict=True):
        assert one.keys() == other.keys()
        if "model.dtype=bfloat16" not in more:
            assert one == {key: pytest.approx(value, abs=1e-4, rel=1e-3) for key, value in other.items()}
    assert files(run / "model").keys() == files(alone / "model").keys()
    # the same run resumes in one process from its second step
    shutil.rmtree(run / "checkpoints" / "step_000003")
    done = by_itself("grpo", configs[0], *settings, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resuming after step 2") == 1
    assert [one["step"] for one in log(run)] == [0, 1, 2]


def test_one_process_may_offload_its_optimizer(data: Path, tmp_path: Path) -> None:
    settings = (*SETTINGS, "parallel.strategy=zero2", "parallel.offload_optimizer=true")
    for name in ("own", "plain"):
        (tmp_path / name).mkdir()
    own, plain = (write_config(tmp_path / name, data) for name in ("own", "plain"))
    assert virft("grpo", plain, *SETTINGS) == 0
    done = by_itself("grpo", own, *settings)
    assert done.returncode == 0, done.stderr
    for one, other in zip(*(log(tmp_path / name / "run") for name in ("own", "plain")), strict=True):
        assert one == {key: pytest.approx(value, abs=1e-4, rel=1e-3) for key, value in other.items()}
