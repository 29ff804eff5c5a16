"""Runs in which prompts wait for a place, together with groups that are replaced (dynamic sampling)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runs import files, log, virft, write_config
from virft.generation.static_decoding import StaticDecoding

STEPS = (
    "grpo.steps=3",
    "grpo.prompts_per_step=4",
    "grpo.group_size=2",
    "grpo.refill_rounds=1",
    "grpo.kl_coef=0",
    "sampling.max_completion_tokens=24",
    "run.save_every=2",
)


def test_waiting_prompts_and_replaced_groups_give_the_same_run_also_after_a_resume(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_admitted = 0
    replace = StaticDecoding._replace

    def counted(decoding: StaticDecoding, *arguments: object) -> bool:
        nonlocal num_admitted
        num_admitted += 1
        return replace(decoding, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StaticDecoding, "_replace", counted)
    runs = {}
    for name, options in (("all", ()), ("waiting", ("sampling.prompts_per_batch=1",))):
        (tmp_path / name).mkdir()
        runs[name] = tmp_path / name / "run"
        assert virft("grpo", write_config(tmp_path / name, scenes / "train"), *STEPS, *options) == 0
        assert (num_admitted > 0) is (name == "waiting")
    whole, found = (files(run) for run in runs.values())
    assert sum(line["num_refilled"] for line in log(runs["all"])) > 0, "groups must be replaced"
    assert found["rollouts.jsonl"] == whole["rollouts.jsonl"]
    # The sampler's log-probs differ in their last bits; metrics depend on them, and the update does not.
    for own, other in zip(log(runs["all"]), log(runs["waiting"]), strict=True):
        assert other == pytest.approx(own, abs=1e-5)
    assert found["model/model.safetensors"] == whole["model/model.safetensors"]

    # resumed after two of three steps, with another number of concurrent prompts
    run = runs["waiting"]
    shutil.rmtree(run / "checkpoints" / "step_000003")
    config = tmp_path / "waiting" / "config.toml"
    assert virft("grpo", config, *STEPS, "sampling.prompts_per_batch=3", "--resume") == 0
    for name in ("rollouts.jsonl", "model/model.safetensors"):
        assert files(run)[name] == whole[name], name
