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


def test_greedy_predictions_equal_those_of_the_built_in_generator(scenes: Path, tmp_path: Path) -> None:
    for engine in ("builtin", "vllm"):
        assert virft("predict", "virft-tiny", scenes, tmp_path / engine, "--engine", engine) == 0
    ours, theirs = (log(tmp_path / engine, "predictions.jsonl") for engine in ("builtin", "vllm"))
    assert [one["text"] for one in theirs] == [one["text"] for one in ours]
    assert len({one["text"] for one in ours}) > 4
    for found, expected in zip(theirs, ours, strict=True):
        assert found["token_logprobs"] == pytest.approx(expected["token_logprobs"], abs=1e-4)
        assert found["token_ends"] == expected["token_ends"]


def test_validation_in_training_is_that_of_the_built_in_generator(scenes: Path, tmp_path: Path) -> None:
    """The weights of the engine are those after the step."""
    config = write_config(tmp_path, scenes)
    settings = ("sampling.engine=vllm", "grpo.steps=2", f"data.validation={scenes}", "data.validate_every=1")
    assert virft("grpo", config, *settings, "grpo.learning_rate=3e-3") == 0
    run = tmp_path / "run"
    found = [log(run / "eval" / f"validation_{step:06d}", "predictions.jsonl") for step in range(3)]
    assert virft("predict", run / "model", scenes, tmp_path / "after", "--max-completion-tokens", 48) == 0
    after = log(tmp_path / "after", "predictions.jsonl")
    assert [one["text"] for one in found[2]] == [one["text"] for one in after]
    assert [one["text"] for one in found[0]] != [one["text"] for one in after], "training must change something"
