"""Adapters that are drawn for a model before its weights are converted."""

from __future__ import annotations

import pytest
import torch

from virft.config.schema import ModelConfig
from virft.models.load import load_model
from virft.models.tiny import TINY_NAME
from virft.training.trainable import prepare_for_training

MODEL = ModelConfig(path=TINY_NAME, train="lora", lora_rank=4)


def adapters(dtype: torch.dtype, *, mapped: bool) -> dict[str, torch.Tensor]:
    loaded = load_model(TINY_NAME, dtype=dtype, mapped=mapped)
    before = {name: one.clone() for name, one in loaded.model.named_parameters()}
    prepare_for_training(loaded, MODEL, seed=3, dtype=dtype if mapped else None)
    after = {name.replace(".base_layer", ""): one for name, one in loaded.model.named_parameters()}
    assert all(torch.equal(one, after[name]) and one.dtype == after[name].dtype for name, one in before.items())
    return {name: one for name, one in after.items() if name not in before}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_do_not_depend_on_the_dtype_of_the_file(dtype: torch.dtype) -> None:
    # the file is in bfloat16, to which PEFT rounds adapters if the weights next to them still are
    found, expected = adapters(dtype, mapped=True), adapters(dtype, mapped=False)
    assert len(found) > 50
    assert found.keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in found.items())
    is_rounded = all(torch.equal(one, one.bfloat16().float()) for one in found.values())
    assert is_rounded == (dtype == torch.bfloat16)
