"""Budgets, progress and shared runs of the systems of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from virft.config.schema import CompareConfig, Config, DataConfig, GRPOConfig, RunConfig, SFTConfig
from virft.recipes.compare.systems import Steps
from virft.recipes.compare.training import RunCost, RunProgress, SystemTraining, TrainedSystem, best_validation

SYSTEMS = ("sft", "curated_sft", "rft", "sft_rft", "mix")


def training(out: Path, budget: Any) -> SystemTraining:
    config = Config(
        data=DataConfig(train="train"),
        grpo=GRPOConfig(demonstrations="loss", steps=120, prompts_per_step=16),
        sft=SFTConfig(steps=30, samples_per_step=8),
        compare=CompareConfig(systems=SYSTEMS, budget=budget),
        run=RunConfig(dir=str(out)),
    )
    found = SystemTraining(config=config, out=out, log=print)
    found.trained["rft"] = TrainedSystem(name="rft", runs=(), tokens=1000, seconds=10.0)
    return found


def cost_of_step(config: Config, method: str) -> RunCost:
    """A step of SFT has 50 tokens and takes 0.25 s; one of GRPO a quarter more with demonstrations."""
    if method == "sft":
        return RunCost(50, 0.25)
    return RunCost(100, 1.0) if config.grpo.demonstrations == "off" else RunCost(125, 1.25)


NOTHING = RunCost(0, 0)


@pytest.mark.parametrize(
    ("budget", "name", "expected"),
    [
        ("samples", "sft", Steps(120, 16, 0)),
        ("samples", "sft_rft", Steps(60, 16, 60)),
        ("samples", "mix", Steps(0, 0, 120)),
        ("own", "sft", Steps(30, 8, 0)),
        ("own", "sft_rft", Steps(15, 8, 60)),
        # 1000 / 50 and 10 / 0.25
        ("tokens", "sft", Steps(20, 8, 0)),
        ("seconds", "sft", Steps(40, 8, 0)),
        ("tokens", "sft_rft", Steps(10, 8, 60)),
        # 120 / 1.25
        ("tokens", "mix", Steps(0, 0, 96)),
    ],
)
def test_all_systems_get_the_budget_of_rft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, name: str, expected: Steps
) -> None:
    monkeypatch.setattr("virft.recipes.compare.training.cost_of_step", cost_of_step)
    assert training(tmp_path, budget).steps_of(name, NOTHING) == expected


def test_sampling_the_base_model_takes_steps_of_a_measured_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virft.recipes.compare.training.cost_of_step", cost_of_step)
    # (1000 - 200) / 50
    assert training(tmp_path, "tokens").steps_of("curated_sft", RunCost(200, 2.0)) == Steps(16, 8, 0)
    # a resumed comparison does not measure again
    monkeypatch.setattr("virft.recipes.compare.training.cost_of_step", lambda config, method: RunCost(1, 1))
    assert training(tmp_path, "tokens").steps_of("curated_sft", RunCost(200, 2.0)) == Steps(16, 8, 0)
    # with as many samples, the cost is shown only
    assert training(tmp_path, "samples").steps_of("curated_sft", RunCost(200, 2.0)) == Steps(120, 16, 0)


def test_the_time_left_is_that_of_the_missing_runs(tmp_path: Path) -> None:
    progress = RunProgress({"sft": 3, "grpo": 2})
    assert progress.describe() == "0 of 5 training runs done"
    # no run of GRPO is finished: it counts as the slowest one
    assert progress.add(tmp_path / "a", "sft", 10.0) == "1 of 5 training runs done, about 0:40 left for the others"
    assert progress.add(tmp_path / "b", "grpo", 100.0) == "2 of 5 training runs done, about 2:00 left for the others"
    assert progress.add(tmp_path / "b", "grpo", 900.0) == "2 of 5 training runs done, about 2:00 left for the others"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "timings.jsonl").write_text('{"step":0,"update":2.0,"images":1.0}\n{"step":1,"update":17.0}\n')
    # 20 seconds in an earlier process; 15 s for the last SFT run, 100 s for the last GRPO run
    assert progress.add(tmp_path / "c", "sft", None) == "3 of 5 training runs done, about 1:55 left for the others"


def test_the_validation_of_the_base_model_is_no_score_of_a_run(tmp_path: Path) -> None:
    records = [
        {"step": 0, "validation_score": 0.9},
        {"step": 0, "loss": 1.0},
        {"step": 1, "validation_score": 0.5},
        {"step": 1, "validation_score": 0.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    assert best_validation(tmp_path) == 0.5
    (tmp_path / "metrics.jsonl").write_text('{"step":0,"loss":1.0}\n')
    assert best_validation(tmp_path) is None
