"""Weights made ready for sampling give the same numbers, and leave no trace."""

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
def test_the_numbers_are_those_of_the_layer(rows, bias):
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
def test_under_autocast_the_numbers_are_autocasts(weights, given, packs, monkeypatch):
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
def test_what_is_cast_anyway_has_no_bound(monkeypatch):
    monkeypatch.setattr(sampling_weights, "MAX_COPY_BYTES", 0)
    layer = nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16), ready_for_sampling([layer]):
        assert _is_ready(layer)


@needs_bfloat16
def test_an_error_inside_leaves_the_layers_as_they_were():
    layer = nn.Linear(8, 8).bfloat16()
    with pytest.raises(RuntimeError, match="inside"), ready_for_sampling([layer]):
        assert _is_ready(layer)
        raise RuntimeError("inside")
    assert not _is_ready(layer)


def test_others_are_left_alone():
    class Quantized(nn.Linear):
        pass

    gathered_later = nn.Linear(8, 8).bfloat16()
    gathered_later.weight.data = torch.empty(0, dtype=torch.bfloat16)
    hooked = nn.Linear(8, 8).bfloat16()
    hooked.forward = of_another = hooked.forward
    layers = [nn.Linear(8, 8), Quantized(8, 8).bfloat16(), gathered_later]
    with ready_for_sampling([*layers, hooked]):
        assert not any(_is_ready(layer) for layer in layers)
        assert hooked.forward is of_another
    assert hooked.forward is of_another


@needs_bfloat16
def test_no_more_is_held_than_may_be(monkeypatch):
    layers = [nn.Linear(8, 8).bfloat16(), nn.Linear(64, 64).bfloat16(), nn.Linear(8, 8).bfloat16()]
    monkeypatch.setattr(sampling_weights, "MAX_COPY_BYTES", 2 * 8 * 8 * 2)
    with ready_for_sampling(layers):
        assert [_is_ready(layer) for layer in layers] == [True, False, True]
