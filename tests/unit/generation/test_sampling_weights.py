"""Weights prepared for sampling give the same numbers, and are restored afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from virft.generation import sampling_weights
from virft.generation.sampling_weights import ready_for_sampling

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no products in bfloat16"
)


def _is_ready(layer: nn.Linear) -> bool:
    return "forward" in vars(layer)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 16, 50])
def test_prepared_layers_give_the_same_numbers(rows, bias):
    torch.manual_seed(0)
    layer = nn.Linear(96, 160, bias=bias).bfloat16()
    inputs = torch.randn(rows, 1, 96).bfloat16()
    with torch.inference_mode():
        expected = layer(inputs)
        with ready_for_sampling([layer]):
            assert _is_ready(layer)
            found = layer(inputs)
    assert not _is_ready(layer)
    assert torch.equal(found, expected)
    assert found.std() > 0.3


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_prepared_layers_equal_autocast(weights, given, packs, monkeypatch):
    if not packs:  # as on a GPU, or a processor without bfloat16
        monkeypatch.setattr(sampling_weights, "_can_pack", lambda *_: False)
    torch.manual_seed(0)
    layer, inputs = nn.Linear(32, 48).to(weights), torch.randn(4, 32).to(given)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(inputs)
        with ready_for_sampling([layer]):
            assert _is_ready(layer) == (packs or weights == torch.float32)
            found = layer(inputs)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@needs_bfloat16
def test_cast_weights_do_not_count_towards_the_limit(monkeypatch):
    monkeypatch.setattr(sampling_weights, "MAX_COPY_BYTES", 0)
    layer = nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16), ready_for_sampling([layer]):
        assert _is_ready(layer)


@needs_bfloat16
def test_an_error_inside_restores_the_layers():
    layer = nn.Linear(8, 8).bfloat16()
    with pytest.raises(RuntimeError, match="inside"), ready_for_sampling([layer]):
        assert _is_ready(layer)
        raise RuntimeError("inside")
    assert not _is_ready(layer)


def test_quantized_sharded_and_hooked_layers_are_not_touched():
    class Quantized(nn.Linear):
        pass

    gathered_later = nn.Linear(8, 8).bfloat16()
    gathered_later.weight.data = torch.empty(0, dtype=torch.bfloat16)
    hooked = nn.Linear(8, 8).bfloat16()
    hooked.forward = hook = hooked.forward
    layers = [nn.Linear(8, 8), Quantized(8, 8).bfloat16(), gathered_later]
    with ready_for_sampling([*layers, hooked]):
        assert not any(_is_ready(layer) for layer in layers)
        assert hooked.forward is hook
    assert hooked.forward is hook


@needs_bfloat16
def test_copies_for_the_layout_stop_at_the_limit(monkeypatch):
    layers = [nn.Linear(8, 8).bfloat16(), nn.Linear(64, 64).bfloat16(), nn.Linear(8, 8).bfloat16()]
    monkeypatch.setattr(sampling_weights, "MAX_COPY_BYTES", 2 * 8 * 8 * 2)
    with ready_for_sampling(layers):
        assert [_is_ready(layer) for layer in layers] == [True, False, True]
