"""`virft eval`: a run's base and trained model are predicted, scored and reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import files, virft, write_config


def test_a_run_with_adapters_is_evaluated_and_its_predictions_are_used_again(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, scenes / "train", extra='model.train = "lora"\n')
    assert virft("grpo", config, "grpo.steps=1", "grpo.prompts_per_step=1") == 0
    assert (run / "model" / "adapter_config.json").is_file()
    capsys.readouterr()

    assert virft("eval", run, scenes / "test", "--limit", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"predictions of {run}/model on {scenes}/test -> {run}/eval/test_first_3",
        f"predictions of virft-tiny on {scenes}/test -> {run}/eval/base_test_first_3",
    ]
    assert lines[2].startswith(f"trained ({run}/model): F1 ")
    assert " on 3 of 8 questions about " in lines[2]
    assert lines[3].startswith("base (virft-tiny): F1 ")
    assert lines[4].startswith("trained - base: F1 ")
    assert lines[5].startswith("best blind baseline: ")
    assert lines[-1] == f"report: {run}/report.html; all scores: {run}/eval/test_first_3/scores.json"
    assert (run / "eval" / "base_test_first_3" / "scores.json").is_file()

    before = files(run / "eval")
    assert virft("eval", run, scenes / "test", "--limit", 3) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line.endswith("exist already and are used") for line in again[:2]] == [True, True]
    assert again[2:] == lines[2:]
    assert files(run / "eval") == before
