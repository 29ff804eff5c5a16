"""Every family beside Qwen's: load a folder, train a step, save, load again, answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from runs import files, log, virft
from tiny_folders import FOLDERS, save_tiny_folder
from virft.models.families import family_of
from virft.models.load import load_model

GLM_TOKENS = 36
"""Tokens of a square image of 48 x 48 pixels: patches of 4 x 4 pixels, four of them in a token."""
REWARD = '''
def variety(reading, target, context):
    """Anything that differs between the texts of random weights."""
    return sum(map(ord, reading.text)) % 97 / 97
'''
TRAININGS = {
    "full": ("model.freeze_vision=false",),
    "frozen vision": ("model.freeze_vision=true",),
    "lora": ("model.train=lora", "model.lora_rank=4"),
}


def short_run(folder: Path, base: Path, scenes: Path) -> Path:
    """A config of one step with answers of six tokens."""
    (folder / "mine.py").write_text(REWARD)
    extra = f"""
model.path = "{base}"
sampling.max_completion_tokens = 6
grpo.steps = 1
reward.extra = ["{folder / "mine.py"}:variety"]
data.train = "{scenes / "train"}"
run.dir = "{folder / "run"}"
grpo.prompts_per_step = 2
grpo.group_size = 3
grpo.learning_rate = 1e-3
"""
    config = folder / "config.toml"
    config.write_text(extra)
    return config


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("model_type", FOLDERS)
def test_a_folder_is_trained_saved_and_loaded_for_predictions(
    scenes: Path, tmp_path: Path, model_type: str, training: str
) -> None:
    base = save_tiny_folder(tmp_path / "base", model_type)
    assert virft("grpo", short_run(tmp_path, base, scenes), *TRAININGS[training]) == 0
    (record,) = log(tmp_path / "run")
    assert record["sampler_gap"] < 1e-4
    folder = tmp_path / "run" / "model"
    assert ("adapter_config.json" in files(folder)) is (training == "lora")
    before, after = load_model(str(base)), load_model(str(folder))
    assert after.family is family_of(model_type)
    if training == "lora":
        assert after.adapters is not None
        after.merge_adapters()
    moved = {
        name: (a - b).abs().max().item() > 0
        for (name, a), b in zip(before.model.named_parameters(), after.model.parameters(), strict=True)
    }
    tower = {name for name in moved if name.startswith(after.family.vision_names)}
    assert record["grad_norm"] > 0
    assert any(moved[name] for name in moved.keys() - tower)
    assert any(moved[name] for name in tower) is (training == "full")
    assert virft("predict", folder, scenes / "test", tmp_path / "p", "--limit", 2, "--max-completion-tokens", 4) == 0


@pytest.mark.parametrize("model_type", FOLDERS)
def test_what_is_saved_is_an_ordinary_model(tmp_path: Path, model_type: str) -> None:
    load_model(str(save_tiny_folder(tmp_path / "base", model_type))).save(tmp_path / "saved")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    saved = load_model(str(tmp_path / "base")).model
    for (name, a), b in zip(saved.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert files(tmp_path / "saved").keys() == files(tmp_path / "base").keys()
    assert "virft" not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize("model_type", FOLDERS)
def test_the_dry_run_counts_image_tokens(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model_type: str
) -> None:
    base = save_tiny_folder(tmp_path / "base", model_type)
    assert virft("grpo", short_run(tmp_path, base, scenes), "--dry-run") == 0
    output = capsys.readouterr().out
    # a scene is square
    tokens = {"smolvlm": 40, "idefics3": 40, "internvl": 20, "llava_onevision": 46, "gemma3": 4, "gemma4": 64}.get(
        model_type, GLM_TOKENS
    )
    assert f" ({tokens} image tokens), completions of " in output
