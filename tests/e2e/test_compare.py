"""Base, SFT and RFT side by side, by the command line."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runs import files, log, virft, write_config
from virft.config.toml_file import load_config
from virft.data.base_completions import BASE_COMPLETIONS, BaseCompletion, BaseGroup, append_base_completions
from virft.data.store import Store
from virft.evaluation.predict import generate_predictions
from virft.evaluation.predictions import SizedPrediction, read_predictions_card
from virft.types import ImageSize

EXTRA = """
[compare]
tests = ["{tests}"]
seeds = 2
"""
SMALL = ("grpo.steps=2", "sampling.max_completion_tokens=24")


def write_compare_config(folder: Path, scenes: Path) -> Path:
    path = write_config(folder, scenes / "train")
    path.write_text(path.read_text() + EXTRA.format(tests=scenes / "test"))
    return path


@pytest.fixture
def config(scenes: Path, tmp_path: Path) -> Path:
    return write_compare_config(tmp_path, scenes)


class Finished(NamedTuple):
    """A comparison of two seeds. Tests only read its folder."""

    config: Path
    out: Path
    printed: str


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    config = write_compare_config(folder, scenes)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert virft("compare", config, *SMALL) == 0
    return Finished(config, folder / "run", printed.getvalue())


def test_a_comparison_trains_both_alike_and_says_what_it_shows(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, said = finished
    first, second = said.splitlines()[:2]
    assert first.startswith("warning: grpo.learning_rate is set and sft.learning_rate is not: ")
    assert second.startswith("compare: base, SFT, RFT; seeds: 2; 4 training runs (RFT: 2 steps); ")
    assert "\n  blind: mean box " in said
    assert " the best blind baseline (" in said
    assert "SFT gets the same samples as RFT: 2 steps of 2 samples" in said
    assert "Confidence intervals resample images, pooled over 2 seeds; they do not generalize to other data" in said
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


def test_a_comparison_that_was_stopped_goes_on(finished: Finished, tmp_path: Path) -> None:
    out = shutil.copytree(finished.out, tmp_path / "run")
    # the copy is a comparison in its own folder
    for settings in (out / "compare.toml", *out.glob("*/*/config.toml")):
        settings.write_text(settings.read_text().replace(str(finished.out), str(out)))
    whole = json.loads((out / "compare.json").read_text())
    (run,) = (out / "sft").glob("lr_*_seed_0")
    for name in ("model", "eval"):
        shutil.rmtree(run / name)
    (out / "compare.json").unlink()
    assert virft("compare", finished.config, *SMALL, f"run.dir={out}", "--resume") == 0
    assert (run / "model").is_dir()
    again = json.loads((out / "compare.json").read_text())
    assert again["tests"] == whole["tests"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compare.tests=[]", "compare.tests is empty; expected the folders of the test sets"),
        ("grpo.warm_start_steps=1", "grpo.warm_start_steps is 1; expected 0 in a comparison: only sft_rft and sft_mix"),
        ('compare.systems=["rtf"]', "compare.systems: 'rtf' is none; expected some of sft, curated_sft, rejection_sft"),
        ('compare.systems=["sft", "sft"]', "compare.systems lists a system twice; expected each once"),
        (
            'compare.systems=["sft_mix"]',
            'sft_mix needs demonstrations, and grpo.demonstrations is "off"; expected "group" or "loss"',
        ),
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


GRPO = ("rft", "sft_rft", "mix", "sft_mix")
ALL = 'compare.systems=["sft", "curated_sft", "rejection_sft", "rft", "sft_rft", "mix", "sft_mix"]'


def test_every_system_trains_and_the_base_models_completions_count(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "grpo.steps=2",
        "sampling.max_completion_tokens=64",
        ALL,
        "compare.seeds=1",
        "compare.noise_repeats=1",
        "grpo.demonstrations=loss",
        "sft.rejection_above=0.0",
        "sft.learning_rate=1e-3",
    )
    assert virft("compare", config, *settings) == 0
    said = capsys.readouterr().out
    out = tmp_path / "run"
    found = json.loads((out / "compare.json").read_text())
    assert list(found["systems"]) == ["base", "sft", "curated_sft", "rejection_sft", "rft", "sft_rft", "mix", "sft_mix"]
    configs = {
        name: load_config(Path(one["runs"][0]) / "config.toml").config
        for name, one in found["systems"].items()
        if one["runs"]
    }
    modes = {name: configs[name].grpo.demonstrations for name in GRPO}
    assert modes == {"rft": "off", "sft_rft": "off", "mix": "loss", "sft_mix": "loss"}
    targets = {name: configs[name].sft.targets for name in ("sft", "curated_sft", "rejection_sft")}
    assert targets == {"sft": "labels", "curated_sft": "curated", "rejection_sft": "rejection"}
    # the warm start is part of a run, which has the steps of RFT
    starts = {name: (one.grpo.steps, one.grpo.warm_start_steps) for name, one in configs.items() if name in GRPO}
    assert starts == {"rft": (2, 0), "sft_rft": (2, 1), "mix": (2, 0), "sft_mix": (2, 1)}
    assert {one["steps"] for one in found["systems"].values()} == {0, 2}
    for name in ("sft_rft", "sft_mix"):
        assert found["systems"][name]["warm_start_steps"] == 1
        assert found["systems"][name]["learning_rates"] == [1e-3, 1e-3]
        records = log(Path(found["systems"][name]["runs"][0]))
        assert ["reward" in one for one in records] == [False, True]
    # the cost of a system has the completions of the base model
    completions = [json.loads(line) for line in (out / "base" / "base_completions.jsonl").read_text().splitlines()]
    sampled = sum(one["prompt_tokens"] + sum(made["num_tokens"] for made in one["completions"]) for one in completions)
    for name, one in found["systems"].items():
        needs_completions = name in ("curated_sft", "rejection_sft")
        assert one["base_tokens"] == (sampled if needs_completions else 0)
        tokens = sum(record["num_tokens"] for run in one["runs"] for record in log(Path(run)))
        assert one["tokens"] == tokens + one["base_tokens"]
        assert bool(one["samples"]) == needs_completions
    assert found["repeatability"]["test"]["detection"].keys() >= {"f1", "ap"}
    assert (found["skipped"], found["best_sft"]) == ({}, "sft")
    assert "Without validation data, SFT represents the SFT systems." in said
    assert "Repeatability limit of predictions: " in said
    assert "SFT then RFT: 2 steps, with a warm start of 1 step" in said
    assert sum(line.startswith("rejection SFT: ") for line in said.splitlines()) == 1
    assert "mix is" in said and "rejection SFT is" in said
    # better than SFT means better than the system that represents SFT
    assert not any("RFT" in line and "curated SFT on" in line for line in said.splitlines())


def test_a_warm_start_has_the_tokens_that_rft_spends_on_sampling(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ("compare.seeds=1", "compare.budget=tokens", "sft.learning_rate=1e-3")
    both = 'compare.systems=["rft", "sft_rft"]'
    assert virft("compare", config, *SMALL, *tokens, both, "compare.warm_start_frac=0.3") == 2
    assert "compare.warm_start_frac has no effect: it needs sft_rft or sft_mix" in capsys.readouterr().err
    assert virft("compare", config, *SMALL, *tokens, both) == 0
    out = tmp_path / "run"
    found = json.loads((out / "compare.json").read_text())["systems"]
    warm = found["sft_rft"]["warm_start_steps"]
    assert 1 <= warm <= 2 < found["sft_rft"]["steps"] + 1
    assert [*json.loads((out / "sft_rft" / "budget.json").read_text())] == [found["sft_rft"]["steps"], 2, warm]


def test_samples_that_the_base_model_solves_decide_on_curation(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ("grpo.steps=1", "sampling.max_completion_tokens=24", "compare.seeds=1", "sft.learning_rate=1e-3")
    assert virft("compare", config, *one, 'compare.systems=["sft"]') == 0
    out = tmp_path / "run"
    train = Store(load_config(out / "compare.toml").config.data.train or "")
    both = 'compare.systems=["sft", "curated_sft"]'
    for score, expected in (
        (1.0, "curated SFT is the same as SFT: no sample is excluded"),
        (0.0, "curated SFT is skipped: no training sample has a mean score above sft.curated_above = 0"),
    ):
        (out / "base" / BASE_COMPLETIONS).unlink(missing_ok=True)
        append_base_completions(out / "base", [_group(sample.id, score) for sample in train])
        capsys.readouterr()
        assert virft("compare", config, *one, both, "--resume") == 0
        assert expected in capsys.readouterr().out
        found = json.loads((out / "compare.json").read_text())
        if score:
            systems = found["systems"]
            assert systems["curated_sft"]["runs"] == systems["sft"]["runs"]
            assert systems["curated_sft"]["samples"] == f"all {len(train)} samples"
            assert systems["curated_sft"]["tokens"] == systems["sft"]["tokens"] + 7 * len(train)
        else:
            assert list(found["skipped"]) == ["curated_sft"]
            assert list(found["systems"]) == ["base", "sft"]
    assert not (out / "curated_sft").exists()


@pytest.mark.parametrize("is_mixture", [False, True])
def test_sft_without_rationales_is_compared_with_a_base_model_that_does_not_think(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_mixture: bool
) -> None:
    one: tuple[str, ...] = ("grpo.steps=2", "sampling.max_completion_tokens=8", "compare.seeds=1")
    if is_mixture:
        train = load_config(config).config.data.train
        config.write_text(
            config.read_text().replace(f'data.train = "{train}"', "")
            + f'[mixture.scenes]\ndata = "{train}"\nthinking = true\n'
        )
    else:
        one = (*one, "prompt.thinking=true")
    assert virft("compare", config, *one, 'compare.systems=["sft", "rft", "sft_rft"]', "sft.learning_rate=1e-3") == 0
    said = capsys.readouterr().out
    assert said.index("SFT then RFT is skipped: ") < said.index("compare: base, SFT, RFT; seeds: 1; 2 training runs")
    assert "SFT is not distinguishable from base without thinking on" in said
    assert "RFT is not distinguishable from base on" in said
    found = json.loads((tmp_path / "run" / "compare.json").read_text())
    assert found["without_thinking"] == ["sft"]
    warnings = {pair: one["detection"]["warnings"] for pair, one in found["tests"]["test"].items()}
    assert [pair for pair, texts in warnings.items() if texts] == ["rft against sft"]
    folders = {"base": Path("base"), "rft": Path("rft", "lr_0.001_seed_0"), "sft": Path("sft", "lr_0.001_seed_0")}
    cards = {
        name: read_predictions_card(tmp_path / "run" / folder / "eval" / "test" / "predictions.jsonl")
        for name, folder in folders.items()
    }
    assert {name: card.thinking for name, card in cards.items()} == {"base": True, "rft": True, "sft": False}


def test_runs_from_the_same_model_share_their_first_validation(
    config: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[int] = []

    def count(*args: Any, **keywords: Any) -> Iterator[list[SizedPrediction]]:
        for batch in generate_predictions(*args, **keywords):
            predicted.append(len(batch))
            yield batch

    monkeypatch.setattr("virft.recipes.evaluate.generate_predictions", count)
    one = ("grpo.steps=2", "sampling.max_completion_tokens=64", "compare.seeds=1")
    settings = (*one, "data.validate_every=0", f"data.validation={scenes / 'test'}", "sft.learning_rate=1e-3")
    assert virft("compare", config, *settings) == 0
    # 8 questions: a test for base, SFT and RFT, a validation after each run, and one before the first of them
    assert sum(predicted) == 8 * (3 + 2 + 1)
    found = json.loads((tmp_path / "run" / "compare.json").read_text())["systems"]
    first = [log(Path(found[name]["runs"][0]))[0] for name in ("sft", "rft")]
    assert first[0] == first[1]
    assert first[0]["validation_f1"] > 0
    assert found["sft"]["validation"] == log(Path(found["sft"]["runs"][0]))[-1]["validation_score"]


def _group(name: str, score: float) -> BaseGroup:
    """A group of one completion, seven tokens with the prompt."""
    one = BaseCompletion(text="", num_tokens=2, score=score, reward=score, well_formed=True, truncated=False)
    return BaseGroup(sample_id=name, prompt_tokens=5, resized=ImageSize(8, 8), seconds=0.5, completions=(one,))


def test_a_finished_run_of_other_settings_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ("grpo.steps=1", "sampling.max_completion_tokens=24", "compare.seeds=1", 'compare.systems=["sft"]')
    assert virft("compare", config, *one, "sft.learning_rate=1e-3") == 0
    path = next((tmp_path / "run" / "sft").iterdir()) / "config.toml"
    before, sft, after = path.read_text().partition("[sft]")
    path.write_text(before + sft + after.replace("weight_decay = 0.0", "weight_decay = 0.5"))
    assert virft("compare", config, *one, "sft.learning_rate=1e-3", "--resume") == 2
    assert "holds a run of another config: sft.weight_decay is 0.5 (saved) and 0.0 (now)" in capsys.readouterr().err
