"""Whole runs of two processes train, log, save, stop and go on as one does; by a launcher where signals matter."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from launched import launch
from runs import LAUNCHER, files, log, one_thread, saved_weights, virft, write_config

THREE = ("grpo.prompts_per_step=3", "grpo.refill_rounds=1", "grpo.max_base_score=0.95")
"""Two of three groups are the first process's; what is drawn in place of others, and what is left out, is the same."""


def begin(folder: Path, data: Path) -> Path:
    folder.mkdir()
    return write_config(folder, data)


def assert_near(found: Path, expected: Path, *, atol: float) -> None:
    """The metrics and the trained weights of two runs are nearly the same."""
    for one, other in zip(log(found), log(expected), strict=True):
        assert one == {key: pytest.approx(value, abs=1e-4, rel=1e-4) for key, value in other.items()}
    step = sorted(path.name for path in (expected / "checkpoints").iterdir())[-1]
    weights, others = (saved_weights(run / "checkpoints" / step) for run in (found, expected))
    torch.testing.assert_close(weights, others, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def alone(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert virft("grpo", write_config(folder, scenes / "train"), *THREE, "grpo.learning_rate=1e-4") == 0
    return folder / "run"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_of_two_processes_is_that_of_one(scenes: Path, alone: Path, tmp_path: Path, strategy: str) -> None:
    config = write_config(tmp_path, scenes / "train")
    more = ("grpo.learning_rate=1e-4", "data.num_workers=2", f"parallel.strategy={strategy}")
    done = launch("grpo", config, *THREE, *more)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert done.stdout.count("step 1/3") == done.stdout.count("saved model: ") == 1, "one process prints"
    assert json.loads((run / "card.json").read_text())["num_processes"] == 2
    assert (run / "rollouts.jsonl").read_bytes() == (alone / "rollouts.jsonl").read_bytes()
    # Adam moves a weight by up to the learning rate wherever a gradient is not 0, rounding too
    assert_near(run, alone, atol=1e-4)
    assert files(run / "model").keys() == files(alone / "model").keys()
    assert virft("predict", run / "model", scenes / "test", tmp_path / "p", "--limit", "2") == 0


def test_full_training_in_bfloat16_is_validated_by_two_processes(scenes: Path, tmp_path: Path) -> None:
    # linear layers are gathered in bfloat16; with a KL term the reference is sharded too, its linear layers in bfloat16
    settings = ("model.dtype=bfloat16", "grpo.steps=1", "sampling.max_completion_tokens=16")
    alone, both = (begin(tmp_path / name, scenes / "train") for name in ("alone", "both"))
    validated = (*settings, f"data.validation={scenes / 'test'}")
    assert virft("grpo", alone, *validated) == 0
    done = launch("grpo", both, *validated, "parallel.strategy=fsdp2")
    assert done.returncode == 0, done.stderr
    before = "run/eval/validation_000000/predictions.jsonl"
    assert (tmp_path / "both" / before).read_bytes() == (tmp_path / "alone" / before).read_bytes()
    steps = [one for name in ("both", "alone") for one in log(tmp_path / name / "run") if "loss" in one]
    # policy and reference round the same weights: no KL before the first update
    assert [one["kl"] for one in steps] == [0.0, 0.0]


def test_ctrl_c_reaches_all_and_one_process_may_resume(scenes: Path, tmp_path: Path) -> None:
    adapters = ("model.train=lora", "parallel.strategy=fsdp2", "grpo.steps=6", f"data.validation={scenes / 'test'}")
    whole, cut = (begin(tmp_path / name, scenes / "train") for name in ("whole", "cut"))
    assert virft("grpo", whole, *adapters) == 0
    command = [sys.executable, *LAUNCHER, "-m", "virft", "grpo", str(cut), *adapters]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread()) as both:
        assert both.stdout is not None and both.stderr is not None
        for line in both.stdout:
            if line.startswith("step 1/"):
                both.send_signal(signal.SIGINT)
        printed = both.stderr.read()
    run = tmp_path / "cut" / "run"
    num_done = len([record for record in log(run) if "loss" in record])
    assert 1 <= num_done < 6
    assert printed.count(f"virft: stopped after step {num_done}; resume with --resume") == 1
    assert virft("grpo", cut, *adapters, "--resume") == 0
    assert (run / "rollouts.jsonl").read_bytes() == (tmp_path / "whole" / "run" / "rollouts.jsonl").read_bytes()
    assert_near(run, tmp_path / "whole" / "run", atol=1e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_sample_ahead_and_one_may_resume(scenes: Path, tmp_path: Path, strategy: str) -> None:
    steps = ("grpo.steps=4", "grpo.prompts_per_step=3", "grpo.refill_rounds=1", "grpo.learning_rate=1e-4")
    ahead = (*steps, "sampling.max_staleness=1", "run.save_every=2", f"parallel.strategy={strategy}")
    whole, cut = (begin(tmp_path / name, scenes / "train") for name in ("whole", "cut"))
    assert virft("grpo", whole, *ahead) == 0
    done = launch("grpo", cut, *ahead)
    assert done.returncode == 0, done.stderr
    run, expected = tmp_path / "cut" / "run", tmp_path / "whole" / "run"
    flight = "checkpoints/step_000002/groups_in_flight.jsonl"
    assert len((run / flight).read_text().splitlines()) == 3
    assert_near(run, expected, atol=1e-3)
    shutil.rmtree(run / "checkpoints" / "step_000004")
    assert virft("grpo", cut, *ahead, "--resume") == 0
    assert_near(run, expected, atol=1e-3)
    first, *others = (one["staleness"] for one in log(run))
    assert first == 0
    assert all(0 < one <= 1 for one in others)


def test_if_one_process_is_killed_the_other_ends_and_the_run_resumes(scenes: Path, tmp_path: Path) -> None:
    settings = ("grpo.steps=12", "run.save_every=1", "grpo.prompts_per_step=2")
    config = begin(tmp_path / "cut", scenes / "train")
    command = [sys.executable, *LAUNCHER, "-m", "virft", "grpo", str(config), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread()) as both:
        assert both.stdout is not None and both.stderr is not None
        for line in both.stdout:
            # a checkpoint is written in the background, complete before that of the next step is begun
            if line.startswith("step 3/"):
                workers = [one for one in psutil.Process(both.pid).children() if "virft" in " ".join(one.cmdline())]
                assert len(workers) == 2
                next(one for one in workers if one.environ()["RANK"] == "1").kill()
        printed = both.stderr.read()
    assert both.returncode != 0
    run = tmp_path / "cut" / "run"
    num_done = len(log(run))
    assert 2 <= num_done < 12
    assert "virft: step" in printed and "another process of the run has ended" in printed, printed
    assert "the last checkpoint is that after step" in printed
    assert virft("grpo", config, *settings, "--resume") == 0
    assert [record["step"] for record in log(run)] == list(range(12))


def test_supervised_runs_of_two_processes_resume(scenes: Path, tmp_path: Path) -> None:
    steps = ("sft.steps=4", "sft.samples_per_step=3", "run.save_every=2", "parallel.strategy=fsdp2")
    whole, cut = (begin(tmp_path / name, scenes / "train") for name in ("whole", "cut"))
    assert virft("sft", whole, *steps) == 0
    begun = launch("sft", cut, *steps)
    assert begun.returncode == 0, begun.stderr
    run = tmp_path / "cut" / "run"
    shutil.rmtree(run / "checkpoints" / "step_000004")
    done = launch("sft", cut, *steps, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resuming after step 2") == 1
    assert_near(run, tmp_path / "whole" / "run", atol=1e-5)
