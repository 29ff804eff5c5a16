"""Base, SFT and RFT side by side, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runs import files, log, virft, write_config
from virft.config.toml_file import load_config

EXTRA = """
[compare]
tests = ["{tests}"]
seeds = 2
"""
SMALL = ("grpo.steps=2", "sampling.max_completion_tokens=24")


@pytest.fixture
def config(scenes: Path, tmp_path: Path) -> Path:
    path = write_config(tmp_path, scenes / "train")
    path.write_text(path.read_text() + EXTRA.format(tests=scenes / "test"))
    return path


def test_a_comparison_trains_both_alike_and_says_what_it_shows(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert virft("compare", config, *SMALL) == 0
    said = capsys.readouterr().out
    first, second = said.splitlines()[:2]
    assert first.startswith("warning: grpo.learning_rate is set and sft.learning_rate is not: ")
    assert second.startswith("compare: base, SFT, RFT; seeds: 2; 4 training runs (RFT: 2 steps); ")
    assert "\n  blind: mean box " in said
    assert " the best blind baseline (" in said
    assert "SFT gets the same samples as RFT: 2 steps of 2 samples" in said
    assert "Confidence intervals resample images, pooled over 2 seeds; they do not generalize to other data" in said
    out = tmp_path / "run"
    found = json.loads((out / "compare.json").read_text())
    assert list(found["systems"]) == ["base", "sft", "rft"]
    assert list(found["tests"]["test"]) == ["sft against base", "rft against base", "rft against sft"]
    for name, trainer in (("sft", "sft"), ("rft", "grpo")):
        runs = [Path(run) for run in found["systems"][name]["runs"]]
        assert len(runs) == 2
        assert [load_config(run / "config.toml").config.seed for run in runs] == [0, 1]
        assert [json.loads((run / "card.json").read_text())["trainer"] for run in runs] == [trainer] * 2
        tokens = [sum(record["num_tokens"] for record in log(run)) for run in runs]
        assert found["systems"][name]["tokens"] == round(sum(tokens) / 2)
        assert all((run / "eval" / "test" / "scores.json").exists() for run in runs)
    # the same samples in the same order
    numbers = found["tests"]["test"]["rft against sft"]["detection"]["differences"]["f1"]
    assert (numbers["first"]["num_seeds"], numbers["second"]["num_seeds"]) == (2, 2)
    blind = found["blind"]["test"]["detection"]
    assert list(blind["systems"]) == ["base", "sft", "rft"]
    assert blind["best"] == next(iter(blind["baselines"]))
    value = blind["baselines"][blind["best"]]["values"]["f1"]
    margin = blind["systems"]["rft"]["against_best"]["value"]
    assert margin == pytest.approx(numbers["second"]["mean"] - value, abs=1e-5)

    before = files(out)
    assert virft("compare", config, *SMALL) == 2
    assert "already holds a comparison; resume with --resume" in capsys.readouterr().err
    assert virft("compare", config, *SMALL, "grpo.group_size=4", "--resume") == 2
    assert "grpo.group_size is 3 (saved) and 4 (now)" in capsys.readouterr().err
    assert virft("compare", config, *SMALL, "--resume") == 0
    assert files(out) == before


def test_a_comparison_that_was_stopped_goes_on(config: Path, tmp_path: Path) -> None:
    one = (*SMALL, "compare.seeds=1")
    assert virft("compare", config, *one) == 0
    whole = json.loads((tmp_path / "run" / "compare.json").read_text())
    (run,) = (tmp_path / "run" / "sft").glob("lr_*_seed_0")
    for name in ("model", "eval"):
        for file in sorted((run / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (run / name).rmdir()
    (tmp_path / "run" / "compare.json").unlink()
    assert virft("compare", config, *one, "--resume") == 0
    again = json.loads((tmp_path / "run" / "compare.json").read_text())
    assert again["tests"] == whole["tests"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compare.tests=[]", "compare.tests is empty; expected the folders of the test sets"),
        ('compare.systems=["rtf"]', "compare.systems: 'rtf' is none; expected some of sft, rft, sft_rft"),
        ('compare.systems=["sft_rft"]', "sft_rft starts from sft and trains as rft does; expected both in the list"),
        (
            "compare.sft_learning_rates=[1e-4]",
            "1 learning rates for SFT and 0 for RFT; expected the same number for both",
        ),
        (
            "compare.sft_learning_rates=[0.0]",
            "compare.sft_learning_rates is [0.0]; expected a list of numbers, each above 0",
        ),
    ],
)
def test_an_impossible_comparison_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert virft("compare", config, *SMALL, override) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rates_are_chosen_on_validation_data_only(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = ("compare.sft_learning_rates=[1e-4, 1e-3]", "compare.rft_learning_rates=[1e-4, 1e-3]")
    assert virft("compare", config, *SMALL, *rates) == 2
    assert "learning rates are chosen on data.validation, which is not set" in capsys.readouterr().err
