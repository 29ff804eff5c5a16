"""A run shown in TensorBoard is the run it would have been."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runs import files, log, virft, write_config

SAME = ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors")


def test_a_run_is_the_same_with_tensorboard_which_has_its_metrics_and_images(scenes: Path, tmp_path: Path) -> None:
    options = ("grpo.steps=2", f"data.validation={scenes / 'test'}")
    for name, more in (("without", ()), ("with", ('run.trackers=["tensorboard"]', "run.tracker_images_every=1"))):
        (tmp_path / name).mkdir()
        assert virft("grpo", write_config(tmp_path / name, scenes / "train"), *options, *more) == 0
    run = tmp_path / "with" / "run"
    without, with_it = files(tmp_path / "without" / "run"), files(run)
    for name in SAME:
        assert with_it[name] == without[name], name

    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    shown = {(name, one.step): one.value for name in found.Tags()["scalars"] for one in found.Scalars(name)}
    logged = {(name, line["step"]): value for line in log(run) for name, value in line.items() if name != "step"}
    assert {"reward", "validation_f1", "validation_score"} <= {name for name, _ in logged}
    # float32 there
    assert shown == pytest.approx(logged, rel=1e-6, abs=1e-12)
    assert [one.step for one in found.Images("rollout")] == [0, 1]


def test_a_missing_tracker_package_is_an_error_before_anything_is_written(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("virft.training.trackers.find_spec", lambda name: None)
    assert virft("grpo", write_config(tmp_path, scenes / "train"), 'run.trackers=["tensorboard"]') == 2
    assert capsys.readouterr().err == 'virft: run.trackers: "tensorboard" is not installed; pip install tensorboard\n'
    assert not (tmp_path / "run").exists()
