"""Weights prepared for sampling give the same numbers, and are restored afterwards."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from virft.generation import sampling_weights
from virft.generation.sampling_weights import merges_adapters, ready_for_sampling

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


@pytest.mark.parametrize(
    ("changes", "merges"),
    [
        ({}, True),
        ({"setting": "exact"}, False),
        ({"has_adapters": False}, False),
        ({"on_cpu": True}, False),
        ({"dtype": torch.float32}, False),
        ({"in_4bit": True}, False),
        ({"setting": "merged", "on_cpu": True, "dtype": torch.float32}, True),
        ({"setting": "merged", "has_adapters": False}, False),
    ],
)
def test_adapters_are_merged_in_bfloat16_on_a_gpu_or_if_set(changes, merges):
    given = {"setting": "auto", "has_adapters": True, "on_cpu": False, "dtype": torch.bfloat16, "in_4bit": False}
    assert merges_adapters(**given | changes) is merges


def adapted(**options):
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(8, 6)), LoraConfig(r=2, target_modules=["0"], **options))
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    return layer


def test_a_layer_with_adapters_uses_one_merged_weight():
    layer, inputs = adapted(lora_alpha=6), torch.randn(5, 8)
    plain = [part for part in layer.modules() if isinstance(part, nn.Linear)]
    base = layer.get_base_layer()
    # scaling: 6 / 2
    weight = base.weight + 3 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    with torch.inference_mode():
        expected = layer(inputs)
        with ready_for_sampling(plain, merged=[layer]):
            assert _is_ready(layer)
            assert not any(map(_is_ready, plain)), "parts of a merged layer need no copies of their own"
            found = layer(inputs)
        with torch.autocast("cpu", torch.bfloat16), ready_for_sampling(plain, merged=[layer]):
            rounded = layer(inputs)
    assert not _is_ready(layer)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # added in float32 and rounded once
    product = nn.functional.linear(inputs.bfloat16(), weight.detach().bfloat16(), base.bias.detach().bfloat16())
    torch.testing.assert_close(rounded, product, atol=0.02, rtol=0.01)
    assert not torch.equal(found, nn.functional.linear(inputs, base.weight, base.bias))


def test_disabled_adapters_and_variants_of_lora_are_not_merged():
    disabled, variant = adapted(), adapted(use_dora=True)
    disabled.enable_adapters(False)
    with ready_for_sampling([], merged=[disabled, variant]):
        assert not _is_ready(disabled)
        assert not _is_ready(variant)
