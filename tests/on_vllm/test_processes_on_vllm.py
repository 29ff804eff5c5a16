"""Runs of two processes with real vLLM on a CPU: a server each, or one for both (``make test-vllm``)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from launched import launch
from runs import log, virft, write_config

pytestmark = pytest.mark.vllm

SETTINGS = (
    "sampling.engine=vllm", "grpo.prompts_per_step=3", "grpo.steps=2", "grpo.learning_rate=1e-4",
    "grpo.refill_rounds=1",
)  # fmt: skip
"""Two of three groups are the first process's, and in a round of dynamic sampling one may have none."""
KINDS = {
    "a server each": (),
    "one server": ("sampling.vllm_servers=1",),
    "three servers, sharded weights": ("sampling.vllm_servers=3", "parallel.strategy=fsdp2"),
    "one server, sharded adapters": ("sampling.vllm_servers=1", "parallel.strategy=fsdp2", "model.train=lora"),
}


def begin(folder: Path, data: Path) -> Path:
    folder.mkdir()
    return write_config(folder, data)


def run_both(config: Path, settings: Sequence[str]) -> Path:
    done = launch("grpo", config, *SETTINGS, *settings)
    assert done.returncode == 0, done.stderr
    return config.parent / "run"


@pytest.fixture(scope="module")
def alone(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one process, by ``model.train``."""
    runs = {}
    for train in ("full", "lora"):
        config = write_config(tmp_path_factory.mktemp(train), scenes)
        assert virft("grpo", config, *SETTINGS, f"model.train={train}") == 0
        runs[train] = config.parent / "run"
    return runs


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_sample_and_learn_as_one(kind: str, scenes: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    run = run_both(begin(tmp_path / "both", scenes), KINDS[kind])
    expected = alone["lora" if "adapters" in kind else "full"]
    assert (run / "rollouts.jsonl").read_bytes() == (expected / "rollouts.jsonl").read_bytes()
    for found, other in zip(log(run), log(expected), strict=True):
        # the gap of the engine is below 1e-4 nats per token
        assert found["sampler_gap"] < 1e-4
        del found["sampler_gap"], found["sampler_gap_mean"], other["sampler_gap"], other["sampler_gap_mean"]
        assert found == {key: pytest.approx(value, abs=1e-3, rel=1e-3) for key, value in other.items()}


def test_a_resumed_run_with_a_shared_server_equals_an_uninterrupted_one(scenes: Path, tmp_path: Path) -> None:
    shared = ("sampling.vllm_servers=1", "run.save_every=1", "grpo.schedule=constant")
    whole = run_both(begin(tmp_path / "whole", scenes), shared)
    config = begin(tmp_path / "cut", scenes)
    cut = tmp_path / "cut" / "run"
    # what a run that was killed in its second step leaves behind
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step_000002")
    shutil.rmtree(cut / "model")
    (cut / "config.toml").write_text((cut / "config.toml").read_text().replace(str(whole), str(cut)))
    assert run_both(config, (*shared, "--resume")) == cut
    assert log(cut) == log(whole)
    assert log(cut, "rollouts.jsonl") == log(whole, "rollouts.jsonl")
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
