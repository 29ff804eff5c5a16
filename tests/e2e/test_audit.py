"""`virft audit`: what a config's reward pays to cheats."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import virft, write_config


def test_a_reward_that_cannot_be_gamed_passes_and_the_models_groups_are_looked_at(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("audit", config, "--groups", 2, "grpo.group_size=2") == 0
    told = capsys.readouterr().out
    assert "best-paid cheat: " in told
    assert "margin +" in told
    assert "2 groups of 2 answers of the model: " in told
    assert not (tmp_path / "run").exists(), "nothing is trained"


def test_a_reward_that_can_be_gamed_fails_with_a_status_for_ci(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("audit", config, "reward.preset=paper") == 1
    captured = capsys.readouterr()
    assert "CHEATING PAYS" in captured.out
    assert "virft: reward hacking: " in captured.err
