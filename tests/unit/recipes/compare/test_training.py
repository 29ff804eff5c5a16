"""Budgets and progress of the systems of a comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factories import sample, save_image
from virft.config.schema import CompareConfig, Config, DataConfig, GRPOConfig, PromptConfig, RunConfig, SFTConfig
from virft.data.store_writer import StoreWriter
from virft.recipes.compare.runs import describe_plan
from virft.recipes.compare.systems import Steps
from virft.recipes.compare.training import RunCost, RunProgress, SystemTraining, TrainedSystem, best_validation

SYSTEMS = ("sft", "curated_sft", "rft", "sft_rft", "mix", "sft_mix")


def training(out: Path, budget: Any) -> SystemTraining:
    config = Config(
        data=DataConfig(train="train"),
        grpo=GRPOConfig(demonstrations="loss", steps=120, prompts_per_step=16),
        sft=SFTConfig(steps=30, samples_per_step=8),
        compare=CompareConfig(systems=SYSTEMS, budget=budget),
        run=RunConfig(dir=str(out)),
    )
    found = SystemTraining(config=config, out=out, log=print)
    found.trained["rft"] = TrainedSystem(name="rft", runs=(), tokens=12_000, seconds=120.0)
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
        ("samples", "sft", Steps(120, 16)),
        ("samples", "rft", Steps(120, 16)),
        ("samples", "sft_rft", Steps(120, 16, 60)),
        ("samples", "mix", Steps(120, 16)),
        ("own", "sft", Steps(30, 8)),
        ("own", "sft_rft", Steps(120, 16, 60)),
        # 12,000 / 50 and 120 / 0.25
        ("tokens", "sft", Steps(240, 8)),
        ("seconds", "sft", Steps(480, 8)),
        ("tokens", "rft", Steps(120, 16)),
        # 120 * 50 of 12,000 tokens, then 6,000 / 100 steps
        ("tokens", "sft_rft", Steps(180, 16, 120)),
        # 120 / 1.25
        ("tokens", "mix", Steps(96, 16)),
        # 6,000 / 125
        ("tokens", "sft_mix", Steps(168, 16, 120)),
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
    # (12,000 - 200) / 50
    assert training(tmp_path, "tokens").steps_of("curated_sft", RunCost(200, 2.0)) == Steps(236, 8)
    # a resumed comparison does not measure again
    monkeypatch.setattr("virft.recipes.compare.training.cost_of_step", lambda config, method: RunCost(1, 1))
    assert training(tmp_path, "tokens").steps_of("curated_sft", RunCost(200, 2.0)) == Steps(236, 8)
    # with as many samples, the cost is shown only
    assert training(tmp_path, "samples").steps_of("curated_sft", RunCost(200, 2.0)) == Steps(120, 16)


def test_a_warm_start_leaves_a_step_of_grpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # supervised steps as expensive as those of RFT: 119 of them, and one of GRPO
    monkeypatch.setattr("virft.recipes.compare.training.cost_of_step", lambda config, method: RunCost(100, 1.0))
    assert training(tmp_path, "tokens").steps_of("sft_rft", NOTHING) == Steps(120, 16, 119)


@pytest.mark.parametrize("name", ["sft_rft", "mix", "sft_mix"])
def test_systems_that_need_the_rationales_that_thinking_lacks_are_skipped(tmp_path: Path, name: str) -> None:
    with StoreWriter(tmp_path / "train") as writer:
        image = writer.add_image_file("a.png", save_image(tmp_path / "a.png"))
        writer.add(sample(image=image))
        writer.finish(source={}, seed=0)
    one = training(tmp_path, "samples")
    one.config = replace(one.config, data=DataConfig(train=str(tmp_path / "train")), prompt=PromptConfig(thinking=True))
    lines: list[str] = []
    one.log = lines.append
    one.skip_refused()
    assert set(one.skipped) == {"sft_rft", "mix", "sft_mix"} and len(lines) == 3
    assert "rationale, which" in one.skipped[name]
    assert one.train(name) is None and len(lines) == 3
    # SFT, curated SFT and RFT are left, of three seeds each
    assert one._progress.describe() == "0 of 9 training runs done"
    text = describe_plan(one.config, {"t": 10}, one.skipped)
    assert text.startswith("compare: base, SFT, curated SFT, RFT; seeds: 3; 9 training runs (RFT: 120 steps); 100 pred")
    one.config = replace(one.config, prompt=PromptConfig(thinking=False))
    assert one._refusal(name) is None


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


def test_runs_that_are_not_needed_leave_the_plan(tmp_path: Path) -> None:
    progress = RunProgress({"sft": 3, "grpo": 1})
    progress.drop("sft", 2)
    assert progress.describe() == "0 of 2 training runs done"
    assert progress.add(tmp_path / "a", "sft", 10.0) == "1 of 2 training runs done, about 0:10 left for the others"


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
