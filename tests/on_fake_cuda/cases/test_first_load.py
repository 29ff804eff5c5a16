"""Weights of a model in bfloat16 reach the device as they are in the file, and are converted to float32 there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fake_cuda import CUDA, FakeCUDA, to_cpu
from virft.config.schema import ModelConfig
from virft.models.tiny import TINY_NAME
from virft.recipes import setup
from virft.training.distributed import Ranks
from virft.training.runtime import Runtime


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_weights_are_converted_on_the_device(
    train: Any, strategy: Any, gpu: FakeCUDA, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert, seen = setup.convert_weights, set()

    def recorded(model: torch.nn.Module, *arguments: Any) -> None:
        base = [one for one in model.parameters() if train == "full" or not one.requires_grad]
        seen.update((one.device.type, one.dtype) for one in base)
        convert(model, *arguments)

    monkeypatch.setattr(setup, "convert_weights", recorded)
    runtime = Runtime(ranks=Ranks(device=CUDA), dtype=torch.float32, strategy=strategy)
    loaded = setup.load_for_training(ModelConfig(path=TINY_NAME, train=train), runtime, seed=0)
    assert seen == {("cuda", torch.bfloat16)}
    assert {(one.device.type, to_cpu(one).dtype) for one in loaded.model.parameters()} == {("cuda", torch.float32)}
