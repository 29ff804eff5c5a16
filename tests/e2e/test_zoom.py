"""Training and prediction with zoom calls. virft-tiny writes none, so that its texts are read as calls here."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import pytest

from runs import log, virft, write_config
from virft.evaluation.predictions import PREDICTIONS, read_predictions, read_predictions_card
from virft.inference import prompting
from virft.types import Box

SETTINGS = ("prompt.zoom_calls=true", "sampling.max_completion_tokens=64", "grpo.steps=4", "run.save_every=2")


@pytest.fixture(autouse=True)
def _calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read about half of all first turns as calls of a region that depends on the text."""

    def read(text, *, space, original, resized):
        number = zlib.crc32(text.encode())
        x, y = number % 60, number // 64 % 60
        return Box(x1=x, y1=y, x2=x + 8 + number % 40, y2=y + 8 + number % 23) if number % 16 < 8 else None

    monkeypatch.setattr(prompting, "read_zoom_call", read)


def test_a_run_with_zoom_calls_logs_them_and_resumes_without_a_difference(scenes: Path, tmp_path: Path) -> None:
    config, run = write_config(tmp_path, scenes / "train"), tmp_path / "run"
    assert virft("grpo", config, *SETTINGS) == 0
    whole, records = log(run), log(run, "rollouts.jsonl")
    fractions = [one["zoom_frac"] for one in whole]
    assert len(fractions) == 4 and max(fractions) > 0 and min(fractions) < 1
    # the sampler's log-probs, from the KV cache of the first turn, are those of the update
    assert all(one["sampler_gap"] < 1e-4 for one in whole)
    zooms = [one[place]["zoom"] for one in records for place in ("best", "worst") if "zoom" in one[place]]
    assert zooms and all(len(zoom["region"]) == 4 and zoom["text"] for zoom in zooms)
    assert json.loads((run / "model" / "virft_card.json").read_text())["zoom_calls"] is True
    weights = (run / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "checkpoints" / "step_000004")
    assert virft("grpo", config, *SETTINGS, "--resume") == 0
    assert (log(run), log(run, "rollouts.jsonl")) == (whole, records)
    assert (run / "model" / "model.safetensors").read_bytes() == weights


def test_predictions_store_both_turns(scenes: Path, tmp_path: Path) -> None:
    assert (
        virft("predict", "virft-tiny", scenes / "test", tmp_path / "p", "--zoom-calls", "--max-completion-tokens", 48)
        == 0
    )
    found = read_predictions(tmp_path / "p" / PREDICTIONS)
    regions = [one.prediction.zoom_region for one in found.values()]
    assert any(regions) and not all(regions)
    for one in (two.prediction for two in found.values() if two.prediction.zoom_region is not None):
        # the first turn has a text of its own; its tokens have no characters of the second's
        assert one.zoom_text and one.token_ends[0] == 0 and one.token_ends[-1] == len(one.text)
    card = read_predictions_card(tmp_path / "p" / PREDICTIONS)
    assert card.settings["zoom_calls"] is True


def test_a_warm_start_trains_on_calls_for_small_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    data, config = tmp_path / "data", write_config(tmp_path, tmp_path / "data")
    assert (
        virft("build", "scenes", data, "--classes", "novel", "--questions", 6, "--size", 224, "--object-scale", 0.3)
        == 0
    )
    rows = []
    for zoom in ("true", "false"):
        more = ("grpo.warm_start_steps=2", "grpo.prompts_per_step=6", f"prompt.zoom_calls={zoom}")
        assert virft("grpo", config, *more, f"run.dir={tmp_path / zoom}") == 0
        rows.append(log(tmp_path / zoom))
    # calls and tool turns of those targets whose boxes are small
    assert rows[0][0]["target_tokens"] > rows[1][0]["target_tokens"]
    assert rows[0][0]["num_tokens"] > rows[1][0]["num_tokens"] + 50
    assert "zoom_frac" in rows[0][2]
