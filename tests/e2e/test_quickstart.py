"""The quickstart, small: it makes its page, and goes on where it was stopped."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from runs import files, log, virft
from virft.config.schema import Config
from virft.errors import RunStopped
from virft.recipes import quickstart

full_config = quickstart.quickstart_config


def small_config(out: Path, *, seed: int, steps: int) -> Config:
    config = full_config(out, seed=seed, steps=steps)
    return replace(
        config,
        grpo=replace(config.grpo, prompts_per_step=2, group_size=3),
        run=replace(config.run, log_every=1),
    )


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "TEST_QUESTIONS", 4)
        patch.setattr(quickstart, "quickstart_config", small_config)
        yield


class Whole(NamedTuple):
    """A quickstart that was not interrupted."""

    out: Path
    printed: str


SEED, STEPS = 1, 4
OPTIONS = ("--seed", SEED, "--steps", STEPS)


@pytest.fixture(scope="module")
def whole(small: None, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("whole") / "q"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert virft("quickstart", out, *OPTIONS) == 0
    return Whole(out, printed.getvalue())


def test_it_scores_trains_scores_again_and_makes_a_page(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    out, printed = whole
    for test in ("same_sprites", "other_style", "never_trained"):
        for run in ("base", *(f"{name}/lr_0.0003_seed_1" for name in ("sft", "rft", "mix"))):
            assert f"\n{run} on {test}: f1 " in printed
        assert re.search(
            rf"^{test} \(detection, f1, \d images\)\n  base +0\.\d+\n  SFT +\d.*\n  RFT +\d.*\n  mix +\d", printed, re.M
        )
    begin = printed.index("RFT, learning rate 0.0003, seed 1\nmodel  virft-tiny, ")
    assert begin < printed.index("\nstep 1/4") < printed.index("\nbase on"), "training comes first"
    assert "step 4/4  loss" in printed
    assert "RFT is not distinguishable from base on these images: ap " in printed
    assert printed.endswith(f"report with images: {out / 'report.html'}\n")

    compared = json.loads((out / "compare" / "compare.json").read_text())
    assert list(compared["systems"]) == ["base", "sft", "rft", "mix"]
    assert [one["steps"] for one in compared["systems"].values()] == [0, 4, 4, 4]
    with Image.open(out / "before_after.png") as sheet:
        assert min(sheet.size) > 400
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "data:image/webp;base64," in page
    assert "http://" not in page, "the page must not need a network"
    assert "https://" not in page, "the page must not need a network"
    for text in (*quickstart.TEST_DESCRIPTIONS.values(), "Rollouts", "Worst failures"):
        assert text in page
    assert "No step has been logged" not in page
    assert "and on both (mix)" in page
    taught = {name: log(out / "compare" / name / "lr_0.0003_seed_1") for name in ("rft", "mix")}
    assert [len(records) for records in taught.values()] == [4, 4]
    assert not any("demonstration_loss" in one for one in taught["rft"])
    assert all("demonstration_loss" in one for one in taught["mix"][:-1]), "the coefficient is 0 in the last step"

    before = files(out)
    assert virft("quickstart", out, *OPTIONS) == 2
    assert capsys.readouterr().err == (
        f"virft: {out}: already holds a quickstart; resume with --resume, or choose another folder\n"
    )
    assert virft("quickstart", out, "--seed", SEED, "--steps", 3, "--resume") == 2
    assert "holds a comparison of another config: grpo.steps is 4 (saved) and 3 (now)" in capsys.readouterr().err
    assert virft("quickstart", out, *OPTIONS, "--resume") == 0
    assert "step 1" not in capsys.readouterr().out
    assert files(out) == before


def test_a_resumed_quickstart_equals_an_uninterrupted_one(whole: Whole, tmp_path: Path) -> None:
    def run(*, stop: bool = False, resume: bool = False) -> None:
        def log_line(line: str) -> None:
            if stop and line.startswith("step 2/"):
                os.kill(os.getpid(), signal.SIGINT)

        quickstart.run_quickstart(tmp_path / "cut", seed=SEED, steps=STEPS, resume=resume, log=log_line)

    with pytest.raises(RunStopped, match="stopped after step 2; resume with --resume"):
        run(stop=True)
    assert not (tmp_path / "cut" / "compare" / "compare.json").exists()
    run(resume=True)
    expected, cut = files(whole.out), files(tmp_path / "cut")
    for name in ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors", "eval/other_style/predictions.jsonl"):
        for system in ("rft", "mix"):
            of_run = f"compare/{system}/lr_0.0003_seed_1/{name}"
            assert cut[of_run] == expected[of_run], of_run
    assert cut["before_after.png"] == expected["before_after.png"]


def test_a_folder_of_another_kind_or_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert virft("quickstart", tmp_path) == 2
    assert "is not empty and holds no quickstart; choose another folder" in capsys.readouterr().err
    assert files(tmp_path) == {"report.html": b"mine"}

    quickstart.write_data(tmp_path / "q" / "data", seed=0)
    assert virft("quickstart", tmp_path / "q", "--seed", 1) == 2
    assert "was drawn with seed 0, not 1; choose another folder" in capsys.readouterr().err


def test_a_quickstart_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quickstart.write_data(tmp_path / "q" / "data", seed=0)
    assert virft("quickstart", tmp_path / "q", "--photo") == 2
    assert "holds another kind of quickstart; choose another folder" in capsys.readouterr().err
