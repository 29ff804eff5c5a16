"""GRPO with the reward of a segmenter's masks, from built-in scenes to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mask_questions import segment_inside
from runs import log, virft, write_config
from tiny_segmenters import save_segmenter
from virft.data.store import Store
from virft.recipes import setup


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four questions about built-in scenes, whose masks are exact."""
    options = ("--classes", "dog,cat", "--shots", 2, "--task", "grounding")
    assert virft("build", "scenes", tmp_path / "d", *options) == 0
    return tmp_path / "d"


def test_a_run_rewards_the_masks_of_a_segmenter_and_does_not_save_it(data: Path, tmp_path: Path) -> None:
    segmenter = save_segmenter(tmp_path / "sam", "sam2")
    config = write_config(tmp_path, data, extra=f'reward.segmenter = "{segmenter}"\nreward.weights.mask = 0.5\n')
    assert virft("grpo", config, "grpo.steps=2") == 0
    run = tmp_path / "run"
    for record in log(run):
        assert 0 <= record["reward_mask"] <= 1
        total = record["reward_giou"] + record["reward_format"] + 0.5 * record["reward_mask"]
        assert record["reward"] == pytest.approx(total, abs=1e-6)
    assert log(run, "rollouts.jsonl")[0]["best"]["masks"]
    names = load_file(run / "model" / "model.safetensors").keys()
    assert not [name for name in names if "mask_decoder" in name or "prompt_encoder" in name]
    assert virft("report", run) == 0
    assert '<path class="mask"' in (run / "report.html").read_text()


def test_the_reward_of_a_simulated_segmenter_reaches_the_advantages(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "make_mask_reward", lambda reward: segment_inside)
    # nothing but masks is rewarded
    extra = 'reward.segmenter = "simulated/one"\nreward.weights = {giou = 0, format = 0}\n'
    assert virft("grpo", write_config(tmp_path, data, extra=extra), "grpo.steps=2") == 0
    run = tmp_path / "run"
    assert all(record["reward"] == record["reward_mask"] for record in log(run))
    group = log(run, "rollouts.jsonl")[0]
    assert group["best"]["parts"]["mask"] > group["worst"]["parts"]["mask"]
    assert group["best"]["advantage"] > 0 > group["worst"]["advantage"]
    samples = {one.id: one for one in Store(data / "train" if (data / "train").exists() else data)}
    assert group["sample"] in samples


def test_a_segmenter_without_masks_in_the_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("build", "scenes", tmp_path / "d", "--classes", "dog", "--shots", 2) == 0
    config = write_config(tmp_path, tmp_path / "d", extra='reward.segmenter = "owner/name"\n')
    assert virft("grpo", config) == 2
    assert "reward.segmenter is set, and no target of the training data has a mask" in capsys.readouterr().err


def test_explain_prints_the_reward_of_the_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mask_questions import save_masked_image

    image, segmenter = save_masked_image(tmp_path), save_segmenter(tmp_path / "sam", "sam")
    target = json.dumps({"box": [20, 20, 60, 60], "polygons": [[20, 20, 60, 20, 60, 60]]})
    text = "<answer>(200,200),(600,600)</answer>"
    options = ("--task", "grounding", "--target", target)
    assert virft("explain", text, *options, "--image", image, "--segmenter", segmenter) == 0
    printed = capsys.readouterr().out
    assert "\nmask  " in printed
    assert "masks of [20.0, 20.0, 60.0, 60.0] and of target 1: IoU " in printed
    assert virft("explain", text, *options, "--segmenter", segmenter) == 2
    assert "segmenter needs image" in capsys.readouterr().err
