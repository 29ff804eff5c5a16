"""Runs of two processes with vLLM servers, with a fake module in place of vLLM. Real vLLM: ``tests/on_vllm``."""

from __future__ import annotations

import json
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


def validation(run: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in run.glob("eval/*/predictions.jsonl")}


def run(folder: Path, data: Path, environment: dict[str, str], *settings: str, launcher: tuple[str, ...] = ()) -> Path:
    folder.mkdir()
    command = [sys.executable, *launcher, "-m", "virft", "grpo", str(write_config(folder, data)), *SETTINGS, *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_two_processes_with_one_server_are_as_one(scenes: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    validated = (f"data.validation={scenes / 'test'}", "data.validate_every=2")
    alone = run(tmp_path / "alone", scenes / "train", environment, *validated)
    shared = ("sampling.vllm_servers=1", "parallel.strategy=fsdp2", *validated)
    both = run(tmp_path / "both", scenes / "train", environment, *shared, launcher=LAUNCHER)
    assert (both / "rollouts.jsonl").read_bytes() == (alone / "rollouts.jsonl").read_bytes()
    for found, expected in zip(log(both), log(alone), strict=True):
        assert found == {key: pytest.approx(value, abs=1e-4, rel=1e-4) for key, value in expected.items()}
    # The engine that samples rollouts validates, too.
    assert validation(both) == validation(alone)
    assert len(validation(both)) == 3
    for path in both.glob("eval/*/card.json"):
        assert json.loads(path.read_text())["settings"]["engine"] == "vllm"


def test_predict_and_compare_use_the_engine_if_requested(
    scenes: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    def start(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "virft", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    out = tmp_path / "out"
    done = start("predict", "virft-tiny", scenes / "test", out, "--engine", "vllm", "--max-completion-tokens", 7)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {tuple(one["token_logprobs"]) for one in lines} == {(-5.0,) * 7}, "those of the fake module"
    assert json.loads((out / "card.json").read_text())["settings"]["engine"] == "vllm"
    folder = tmp_path / "compared"
    folder.mkdir()
    config = write_config(folder, scenes / "train")
    done = start(
        "compare", config, *SETTINGS, "grpo.refill_rounds=0", "grpo.steps=1", 'compare.systems=["rft"]',
        f"compare.tests=[{str(scenes / 'test')!r}]", "compare.noise_repeats=0", "compare.seeds=1",
        "sampling.max_completion_tokens=7",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cards = [path for path in (folder / "run").rglob("card.json") if (path.parent / "predictions.jsonl").exists()]
    assert len(cards) == 2, "base and RFT"
    assert {json.loads(path.read_text())["settings"]["engine"] for path in cards} == {"vllm"}
