"""Counted operations of the language model are those of its weights and of the pairs of tokens that attend."""

from __future__ import annotations

import pytest
import torch

from plain_computation import make_groups, make_pair
from tiny_models import MAKERS
from tiny_policies import adapters, loaded_of
from virft.models.attention.layout import pack_row
from virft.models.experts import expert_weights
from virft.models.operations import (
    Segment,
    attended_pairs,
    forward_operations,
    group_segments,
    row_segments,
    update_operations,
)
from virft.models.peak_rates import peak_rate


@pytest.mark.parametrize("model_type", MAKERS)
def test_weights_of_the_layers_and_adapters_are_counted(model_type: str) -> None:
    _, policy = make_pair(model_type)
    text = policy.config.get_text_config()
    layers = policy.model.get_submodule(policy.family.language_module).layers
    weights = sum(one.numel() for one in layers.parameters() if one.ndim == 2)
    if model_type == "gemma4":
        weights += policy.model.model.language_model.per_layer_model_projection.weight.numel()
    # 2 of 4 or 8 experts are used
    experts = expert_weights(layers)
    weights += sum(2 * one.numel() // len(one) for one in experts)
    assert bool(experts) is model_type.endswith("moe")
    segments = group_segments(5, [2, 3])
    forward = forward_operations(text, segments, num_logits=5)
    assert forward.weights == 2 * 10 * weights  # a multiply-add of each weight for each of 10 tokens
    assert forward.logits == 2 * 5 * policy.model.get_output_embeddings().weight.numel()
    assert update_operations(text, segments, num_logits=5) == 3 * sum(forward)

    adapters(loaded_of(policy))  # of rank 4
    trained = sum(one.numel() for name, one in policy.named_parameters() if "lora_" in name)
    assert update_operations(text, segments, num_logits=5, lora_rank=4) == (
        2 * (forward.weights + forward.logits) + 3 * (forward.attention + 2 * 10 * trained)
    )


def test_attention_counts_pairs_and_sliding_windows() -> None:
    config = make_pair("gemma3")[0].config.text_config
    # layers with a window of 5, without one, and with one; prompt of 9, completion of 3
    windowed = sum(min(place + 1, 5) for place in range(12))
    whole = sum(place + 1 for place in range(12))
    found = forward_operations(config, group_segments(9, [3]), num_logits=3).attention
    assert found == 4 * (config.num_attention_heads * config.head_dim) * (2 * windowed + whole)


@pytest.mark.parametrize("window", [None, 1, 4, 50])
def test_pairs_are_those_of_a_mask(window: int | None) -> None:
    places = torch.arange(11)
    back = places[:, None] - places
    seen = (back >= 0) & (back < (window or 11))
    assert attended_pairs(Segment(4, 11), window=window) == int(seen[-4:].sum())


def test_segments_of_a_row_are_those_of_its_groups() -> None:
    _, policy = make_pair("qwen2_vl")
    groups = make_groups(policy.config)
    positions = [policy.family.prompt_positions(policy.model, torch.tensor(ids), vision) for ids, vision, _ in groups]
    row = pack_row([ids for ids, _, _ in groups], positions, [completions for _, _, completions in groups])
    expected = [one for ids, _, completions in groups for one in group_segments(len(ids), map(len, completions))]
    assert row_segments(row) == expected


def test_peak_rates_are_found_by_whole_words_of_a_name() -> None:
    assert peak_rate("NVIDIA H100 PCIe") == 756e12
    assert peak_rate("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_rate("NVIDIA L4") == 121e12
    assert peak_rate("NVIDIA A10G") is None
    assert peak_rate("cpu") is None
