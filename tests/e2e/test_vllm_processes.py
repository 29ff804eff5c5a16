"""Runs of two processes with vLLM servers, with a fake module in place of vLLM. Real vLLM: ``tests/on_vllm``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import random_vllm
from runs import LAUNCHER, log, one_thread, write_config
from virft.models.load import load_model

SETTINGS = ("sampling.engine=vllm", "grpo.prompts_per_step=3", "grpo.refill_rounds=1", "grpo.learning_rate=1e-4")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the fake module is vllm."""
    folder = tmp_path / "modules"
    folder.mkdir()
    shutil.copyfile(random_vllm.__file__, folder / "vllm.py")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    placeholder = str(load_model("virft-tiny").model.config.image_token_id)
    return one_thread() | {"PYTHONPATH": path, "FAKE_PLACEHOLDER": placeholder}


def run(folder: Path, data: Path, environment: dict[str, str], *settings: str, launcher: tuple[str, ...] = ()) -> Path:
    folder.mkdir()
    command = [sys.executable, *launcher, "-m", "virft", "grpo", str(write_config(folder, data)), *SETTINGS, *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_two_processes_with_one_server_are_as_one(scenes: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    alone = run(tmp_path / "alone", scenes / "train", environment)
    shared = ("sampling.vllm_servers=1", "parallel.strategy=fsdp2")
    both = run(tmp_path / "both", scenes / "train", environment, *shared, launcher=LAUNCHER)
    assert (both / "rollouts.jsonl").read_bytes() == (alone / "rollouts.jsonl").read_bytes()
    for found, expected in zip(log(both), log(alone), strict=True):
        assert found == {key: pytest.approx(value, abs=1e-4, rel=1e-4) for key, value in expected.items()}
