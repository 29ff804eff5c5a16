"""`virft audit`: rewards of reward-hacking probes under a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import virft, write_config


def test_a_reward_that_cannot_be_hacked_passes_and_the_models_groups_are_described(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("audit", config, "--groups", 2, "grpo.group_size=2") == 0
    text = capsys.readouterr().out
    assert "best-rewarded probe: " in text
    assert "margin +" in text
    assert "2 groups of 2 completions of the model: " in text
    assert not (tmp_path / "run").exists(), "nothing is trained"


def test_a_reward_that_can_be_hacked_fails_with_a_status_for_ci(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("audit", config, "reward.preset=paper") == 1
    captured = capsys.readouterr()
    assert "THIS REWARD CAN BE HACKED" in captured.out
    assert "virft: reward hacking: " in captured.err
