"""TRL's own trainer learns from virft's rewards. Skipped where TRL is not installed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from factories import box, detections, sample, save_image
from virft.data.store_writer import StoreWriter
from virft.geometry.boxes import BoxSpace
from virft.integrations.export import trl_dataset
from virft.integrations.trl import QwenResize, VisualReward
from virft.models.tiny import tiny_folder
from virft.types import Label

trl = pytest.importorskip("trl", reason="TRL is not installed here (docs/other_trainers.md)")

SAMPLES = (
    sample(detections((10, 10, 30.5, 40)), id="1"),
    sample(detections(), id="2", query="hen"),
    sample(Label(text="red fox"), id="3", task="classification", query="animal"),
    sample(box(0, 0, 20, 20), id="4", task="grounding", query="the left one"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four samples, of every task, of one image."""
    save_image(tmp_path / "a.png")
    with StoreWriter(tmp_path / "data") as writer:
        writer.add_image_file("a.png", tmp_path / "a.png")
        for one in SAMPLES:
            writer.add(one)
        writer.finish(source={}, seed=0)
    return tmp_path / "data"


@pytest.mark.parametrize("space", [BoxSpace.RELATIVE_1000, BoxSpace.RESIZED_PIXELS])
def test_trls_grpo_trainer_learns_from_virfts_rewards(data: Path, tmp_path: Path, space: BoxSpace) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(tiny_folder(), dtype="float32")
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    processor = AutoProcessor.from_pretrained(tiny_folder())
    resize = QwenResize.of(processor.image_processor) if space is BoxSpace.RESIZED_PIXELS else None
    trainer = trl.GRPOTrainer(
        model=model,
        processing_class=processor,
        reward_funcs=[VisualReward(box_space=space, thinking=False, resize=resize)],
        train_dataset=trl_dataset(data, template="short", thinking=False, space=space),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=8,
            num_generations=2,
            max_completion_length=48,
            learning_rate=1e-4,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=0,
        ),
    )
    trainer.train()
    logs = [line for line in trainer.state.log_history if "reward" in line]
    assert len(logs) == 2
    for line in logs:
        # robust: at most 3 for detection, 2 for the others
        assert 0.0 < line["reward"] < 3.0
        assert line["rewards/VisualReward/mean"] == pytest.approx(line["reward"])
        assert 0.0 < line["virft/format"] <= 1.0
        assert math.isfinite(line["loss"])
    assert any(not before[name].equal(one) for name, one in model.named_parameters())
