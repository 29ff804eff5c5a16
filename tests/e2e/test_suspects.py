"""Suspect labels of a run: listed, shown, and excluded from the next training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from factories import save_image
from runs import files, virft, write_config
from virft.data.base_completions import BaseCompletion, BaseGroup, append_base_completions, read_base_completions
from virft.data.store import Store
from virft.evaluation.suspects import read_suspects
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.types import Detection, Detections

NAMES = ("completions.jsonl", "base_completions.jsonl")


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one supervised step."""
    folder = tmp_path_factory.mktemp("suspects")
    config = write_config(folder, scenes / "train")
    assert virft("sft", config, "sft.steps=1", "sft.samples_per_step=1", "sampling.max_completion_tokens=48") == 0
    return folder / "run"


def complete_as_labelled(run: Path, store: Store, *, wrong: str) -> None:
    """Replace the sampled completions by the label, for ``wrong`` by a box in the other half of the image."""
    sampled = read_base_completions(run / "suspects")
    groups: list[BaseGroup] = []
    for sample in store:
        group = sampled[sample.id]
        assert isinstance(sample.target, Detections)
        answered = sample
        if sample.id == wrong:
            first = sample.target.items[0].box
            dx = 50.0 if first.x2 <= 60 else -50.0
            box = replace(first, x1=max(first.x1 + dx, 0.0), x2=first.x2 + dx)
            answered = replace(sample, target=Detections(items=(Detection(box=box),)))
        text = TASKS["detection"].render_for(answered, space=BoxSpace.RELATIVE_1000, resized=group.resized)
        one = BaseCompletion(text=text, num_tokens=1, score=0.0, reward=0.0, well_formed=True, truncated=False)
        groups.append(replace(group, completions=(one,) * 4))
    for name in NAMES:
        (run / "suspects" / name).unlink()
        append_base_completions(run / "suspects", groups, name)


def test_suspects_are_listed_shown_and_excluded(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert virft("check", "--suspects", run, "--group-size", 2, "--min-score", 0) == 0
    lines = capsys.readouterr().out.splitlines()
    # supervised training has seen the labels: the base model is sampled too
    assert lines[0] == f"2 completions of virft-tiny for each of 11 samples -> {run}/suspects/base_completions.jsonl"
    assert lines[1] == f"2 completions of {run}/model for each of 11 samples -> {run}/suspects/completions.jsonl"
    assert f"suspect labels of 11 samples: {run}/suspects/suspects.jsonl" in "\n".join(lines)
    sampled = files(run / "suspects")
    assert [len(sampled[name].splitlines()) for name in NAMES] == [11, 11]

    # the completions are used again, and give the same list
    assert virft("check", "--suspects", run, "--group-size", 2, "--min-score", 0) == 0
    assert files(run / "suspects") == sampled

    # completions that confirm every label but one
    store = Store(scenes / "train")
    wrong = next(sample.id for sample in store if isinstance(sample.target, Detections) and sample.target.items)
    complete_as_labelled(run, store, wrong=wrong)
    capsys.readouterr()
    assert virft("check", "--suspects", run, "--group-size", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"1 suspect label of 11 samples: {run}/suspects/suspects.jsonl" in lines
    (found,) = read_suspects(run / "suspects" / "suspects.jsonl")
    assert found.sample.id == wrong

    assert virft("report", run, "--suspects") == 0
    page = (run / "suspects" / "report.html").read_text()
    assert wrong in page and "1. " in page

    again = tmp_path / "again"
    exclude = f"data.exclude={run}/suspects/suspects.jsonl"
    config = write_config(tmp_path, scenes / "train")
    few = ("sft.steps=1", "sft.samples_per_step=1")
    assert virft("sft", config, *few, exclude, f"run.dir={again}") == 0
    assert "excluded" in capsys.readouterr().out
    card = json.loads((again / "card.json").read_text())
    assert card["excluded"] == [wrong]
    assert card["data_hash"] != store.hash


def test_options_that_do_not_fit_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: object) -> str:
        assert virft(*words) == 2
        return capsys.readouterr().err

    assert "no dataset; expected DATA" in refused("check")
    assert "--group-size without --suspects RUN" in refused("check", tmp_path, "--group-size", 4)
    assert "--model with --suspects" in refused("check", "--suspects", run, "--model", "virft-tiny")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "a.png", "query": "fox", "target": {"objects": [[1, 1, 9, 9]]}}')
    save_image(tmp_path / "images" / "a.png")
    assert virft("build", "rows", rows, tmp_path / "images", tmp_path / "points") == 0
    capsys.readouterr()
    assert "pointing has points as answers" in refused("check", "--suspects", run, tmp_path / "points")
    assert "expected a run folder" in refused("check", "--suspects", tmp_path)
    assert "expected one run" in refused("report", run, run, "--suspects")
    assert f"holds no suspects.jsonl; expected a run after `virft check --suspects {tmp_path}`" in refused(
        "report", tmp_path, "--suspects"
    )
