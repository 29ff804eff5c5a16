"""Supervised fine-tuning by the command line, alone and before reinforcement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from run_parts import grpo_trainer_of, load_model_of
from runs import log, virft, write_config
from thinking_models import save_thinking_folder
from virft.config.toml_file import load_config
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.models.load import load_model

STEPS = ("sft.steps=4", "sft.samples_per_step=2", "sft.learning_rate=1e-3")


def test_targets_become_more_probable_and_the_model_is_prompted_as_before(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("sft", config, *STEPS, "sft.steps=12") == 0
    assert "step 1/12  loss " in capsys.readouterr().out
    run = tmp_path / "run"
    losses = [record["loss"] for record in log(run)]
    assert len(losses) == 12
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert json.loads((run / "card.json").read_text())["trainer"] == "sft"
    assert virft("predict", run / "model", scenes / "test", tmp_path / "p", "--limit", "2") == 0


def test_a_stopped_run_goes_on_and_ends_the_same(scenes: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("sft", config, *STEPS, "run.save_every=2") == 0
    whole = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert virft("sft", config, *STEPS, "run.save_every=2", f"run.dir={tmp_path / 'b'}") == 0
    for path in (tmp_path / "b").glob("checkpoints/step_000004*/*"):
        path.unlink()
    (tmp_path / "b" / "checkpoints" / "step_000004").rmdir()
    assert virft("sft", config, *STEPS, "run.save_every=2", f"run.dir={tmp_path / 'b'}", "--resume") == 0
    assert (tmp_path / "b" / "metrics.jsonl").read_bytes() == whole
    name = "model/model.safetensors"
    assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_run_of_the_other_trainer_is_not_resumed(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("sft", config, *STEPS) == 0
    capsys.readouterr()
    assert virft("grpo", config, *STEPS, "--resume") == 2
    assert capsys.readouterr().err == f"virft: {tmp_path / 'run'}: holds a run of `virft sft`; choose another run.dir\n"


@pytest.mark.parametrize("train", ["full", "lora"])
def test_rft_starts_from_the_supervised_model(scenes: Path, tmp_path: Path, train: str) -> None:
    path = write_config(tmp_path, scenes / "train")
    assert virft("sft", path, *STEPS, f"model.train={train}") == 0
    model = tmp_path / "run" / "model"
    second = (f"model.path={model}", f"model.train={train}", f"run.dir={tmp_path / 'rft'}", "grpo.steps=1")
    config = load_config(path, second).config
    loaded = load_model_of(config)
    supervised = load_model(str(model))
    ids = torch.tensor([[5, 6, 7]])

    def logits(one: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return one(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids)).logits

    # where it starts, and what the KL term holds it to, is the supervised model
    torch.testing.assert_close(logits(loaded.model), logits(supervised.model), atol=1e-4, rtol=0)
    base = logits(load_model("virft-tiny").model)
    assert not torch.allclose(logits(loaded.model), base, atol=1e-3)
    trainer = grpo_trainer_of(replace(config, grpo=replace(config.grpo, kl_coef=0.04)), loaded)
    if train == "lora":
        assert trainer.reference_mode is not None
        with trainer.reference_mode():
            torch.testing.assert_close(logits(loaded.model), logits(supervised.model), atol=1e-4, rtol=0)
    assert virft("grpo", path, *second) == 0
    # adapters over merged ones are a whole model: their base is in no folder
    assert (tmp_path / "rft" / "model" / "model.safetensors").exists()
    assert virft("predict", tmp_path / "rft" / "model", scenes / "test", tmp_path / "p", "--limit", "2") == 0


def with_rationales(data: Path, folder: Path, thought: str) -> Path:
    """A copy of a data set in which every sample has this to think."""
    with StoreWriter(folder) as writer:
        for one in Store(data):
            path = writer.add_image_file(Path(one.images[0]).name, Path(one.images[0]))
            writer.add(replace(one, images=(path,), rationale=thought))
        writer.finish(source={}, seed=0)
    return folder


def test_thinking_needs_something_to_think(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("sft", config, *STEPS, "prompt.thinking=true") == 2
    assert "has no rationale, which supervised training with thinking needs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with_rationales(scenes / "train", tmp_path / "with_rationales", "I look at every corner.")
    assert next(iter(Store(tmp_path / "with_rationales"))).rationale == "I look at every corner."
    with_them = write_config(tmp_path, tmp_path / "with_rationales")
    assert virft("sft", with_them, *STEPS, "prompt.thinking=true") == 0
    assert log(tmp_path / "run")[0]["target_tokens"] > 10


def test_a_model_that_always_thinks_learns_answers_as_one_whole(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_thinking_folder(tmp_path / "base")
    config = write_config(tmp_path, with_rationales(scenes / "train", tmp_path / "with_rationales", "I look."))
    learning = (f"model.path={base}", *STEPS, "sft.steps=50", "grpo.steps=1", "sampling.max_completion_tokens=160")
    assert virft("sft", config, *learning) == 2
    assert "begins a think block in every completion" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert virft("sft", config, *learning, "prompt.thinking=true") == 0
    model = tmp_path / "run" / "model"
    assert virft("predict", model, tmp_path / "with_rationales", tmp_path / "p", "--thinking") == 0
    texts = [one["text"] for one in log(tmp_path / "p", "predictions.jsonl")]
    assert {text[: text.find("<answer>")] for text in texts} == {"<think>\nI look.</think>"}
    # what is learnt by reward is the same whole text
    on = (f"model.path={model}", f"run.dir={tmp_path / 'rft'}", "prompt.thinking=true", "sampling.temperature=0.3")
    assert virft("grpo", config, *learning, *on) == 0
    (step,) = log(tmp_path / "rft")
    assert step["reward_format"] > 0.9
