"""A run of the command line with real vLLM (``make test-vllm``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import log, virft, write_config

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_resumed_run_on_vllm_equals_an_uninterrupted_one(scenes: Path, tmp_path: Path, max_staleness: int) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, scenes)
    settings = ("sampling.engine=vllm", "grpo.steps=4", "grpo.schedule=constant", "run.save_every=2")
    settings += (f"sampling.max_staleness={max_staleness}",)
    assert virft("grpo", tmp_path / "whole" / "config.toml", *settings) == 0
    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    # what a run that was killed after its third step leaves behind
    (cut / "checkpoints").mkdir(parents=True)
    for name in ("card.json", "metrics.jsonl", "rollouts.jsonl", "timings.jsonl"):
        lines = (whole / name).read_text()
        (cut / name).write_text(lines if name == "card.json" else "\n".join(lines.split("\n")[:3]) + "\n")
    (cut / "config.toml").write_text((whole / "config.toml").read_text().replace(str(whole), str(cut)))
    (whole / "checkpoints" / "step_000002").rename(cut / "checkpoints" / "step_000002")
    assert virft("grpo", tmp_path / "cut" / "config.toml", *settings, "--resume") == 0
    assert [line["step"] for line in log(cut)] == [0, 1, 2, 3]
    if max_staleness:
        assert [line["staleness"] for line in log(cut)] == [0, 1, 1, 1]
    else:
        assert [line["sampler_gap"] < 1e-4 for line in log(cut)] == [True] * 4
    assert log(cut) == log(whole)
    assert log(cut, "rollouts.jsonl") == log(whole, "rollouts.jsonl")
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
