"""4-bit base weights under adapters: which weights, training, saving, and errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from factories import detections, sample, save_image
from run_parts import grpo_trainer_of, load_model_of
from virft.cli.main import main
from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig, SamplingConfig
from virft.errors import ConfigError, ModelError
from virft.models.load import LoadedModel, load_as_trained, load_model
from virft.models.precision import Precision

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs virft[quant], which is not installed"
)
CONFIG = Config(
    model=ModelConfig(train="lora", dtype="bfloat16", load_in_4bit=True, gradient_checkpointing=True),
    data=DataConfig(train="d"),
    sampling=SamplingConfig(max_completion_tokens=8),
    grpo=GRPOConfig(steps=2, group_size=3, learning_rate=1e-3, optimizer="adamw_8bit"),
    run=RunConfig(dir="r"),
)


def test_4_bit_weights_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"load_in_4bit needs bitsandbytes.* pip install .*\[quant\]"):
        load_model("virft-tiny", in_4bit=True)


def test_adapters_in_a_folder_cannot_be_merged_into_4_bit_weights(tmp_path: Path) -> None:
    loaded = load_model("virft-tiny")
    loaded.add_lora(2, 4)
    loaded.save(tmp_path / "adapters")
    adapted = load_model(str(tmp_path / "adapters"))
    adapted.precision = Precision("float32", in_4bit=True)
    with pytest.raises(ModelError, match="adapters: holds adapters, which cannot be merged into weights of 4 bits"):
        adapted.merge_adapters()


@needs_bitsandbytes
def test_only_the_language_models_layers_have_4_bits() -> None:
    packed = {n for n, p in load_model_of(CONFIG).model.named_parameters() if p.dtype == torch.uint8}
    # 4 layers of 7 matrices
    assert len(packed) == 28
    assert all(name.startswith("model.language_model.layers.") for name in packed)


@needs_bitsandbytes
def test_logits_of_4_bit_weights_correlate_with_those_of_16_bits() -> None:
    ids = torch.arange(40, 60)[None]
    whole, packed = (
        load_model("virft-tiny", dtype=torch.bfloat16, in_4bit=in_4bit).model(input_ids=ids).logits.float()
        for in_4bit in (False, True)
    )
    assert whole.std() > 0.5
    assert torch.corrcoef(torch.stack([whole.flatten(), packed.flatten()]))[0, 1] > 0.95
    assert not torch.equal(whole, packed)


@needs_bitsandbytes
def test_sampling_and_training_alternate_and_adapters_are_saved(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", (112, 112))
    loaded = load_model_of(CONFIG)
    trainer = grpo_trainer_of(CONFIG, loaded)
    one = sample(detections((10, 10, 60, 60)), image=str(path), size=(112, 112))
    for number in range(2):
        report = trainer.step(number, [one])
        # the sampler's numbers are the policy's, up to rounding in bfloat16
        assert report.metrics["sampler_gap"] < 0.3
    loaded.save(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    assert again.adapters is not None


@needs_bitsandbytes
def test_adapters_are_loaded_and_merged_on_the_4_bits_that_they_were_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_model_of(CONFIG)
    assert trained.adapters is not None
    for name, weight in trained.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.02)
    trained.save(tmp_path / "adapters")

    ids = torch.arange(40, 60)[None]

    def logits(loaded: LoadedModel) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found: torch.Tensor = loaded.model.eval()(input_ids=ids).logits.float()
        return found

    expected = logits(trained)
    again = load_as_trained(str(tmp_path / "adapters"))
    assert again.precision == Precision("bfloat16", in_4bit=True)
    torch.testing.assert_close(logits(again), expected)
    plain = load_as_trained(str(tmp_path / "adapters"), in_4bit=False)
    assert plain.precision == Precision("bfloat16")

    assert main(["merge", str(tmp_path / "adapters"), str(tmp_path / "as_trained")]) == 0
    assert "note: merged into the dequantized weights of the base in 4 bits" in capsys.readouterr().out
    whole = [str(tmp_path / "adapters"), str(tmp_path / "whole"), "--no-load-in-4bit"]
    assert main(["merge", *whole]) == 0
    printed = capsys.readouterr().out
    assert "merged into the base in bfloat16, and trained on it in bfloat16, language model in 4 bits" in printed
    merged = load_as_trained(str(tmp_path / "as_trained"), dtype="float32")
    assert merged.precision == Precision("float32")
    assert load_as_trained(str(tmp_path / "as_trained")).precision == Precision("bfloat16")
    near, far = ((logits(one) - expected).abs().mean() for one in (merged, load_model(str(tmp_path / "whole"))))
    assert near < far / 3
