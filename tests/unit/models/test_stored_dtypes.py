"""Dtypes in which weights are stored: those of frozen weights change no number, and no weight is rounded on the way."""

from __future__ import annotations

import copy

import pytest
import torch

from plain_computation import make_groups, make_pair
from tiny_models import MAKERS
from virft.models.attention.layout import pack_row
from virft.models.load import load_model
from virft.models.policy import Policy
from virft.models.stored_dtypes import convert_weights, linear_parameters, placeholders, stored_dtypes
from virft.models.tiny import TINY_NAME


def _compute(policy: Policy) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Image features, and log-probs of given completions, under autocast."""
    groups = make_groups(policy.config)
    positions = [policy.family.prompt_positions(policy.model, torch.tensor(ids), vision) for ids, vision, _ in groups]
    row = pack_row([one[0] for one in groups], positions, [one[2] for one in groups])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = policy.encode_images([one[1] for one in groups])
        return [tensor for one in features for tensor in one.tokens], policy(row, features=features)


@pytest.mark.parametrize("model_type", MAKERS)
def test_frozen_linear_layers_in_bfloat16_change_no_number_under_autocast(model_type: str) -> None:
    _, policy = make_pair(model_type)
    policy.eval()
    frozen = copy.deepcopy(policy).requires_grad_(False).eval()
    convert_weights(frozen, stored_dtypes(frozen, torch.bfloat16))
    cast = {name for name, one in frozen.named_parameters() if one.dtype == torch.bfloat16}
    assert len(cast) > 20
    assert not any("norm" in name for name in cast)
    expected, found = _compute(policy), _compute(frozen)
    for one, other in zip(expected[0], found[0], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(expected[1], found[1])
    assert found[1].std() > 0.01


def test_trained_weights_and_embeddings_are_not_cast() -> None:
    _, policy = make_pair("qwen2_vl")
    model = policy.model
    model.lm_head.weight = model.get_input_embeddings().weight
    listed = {id(one) for one in linear_parameters(model)}
    assert id(model.lm_head.weight) not in listed
    convert_weights(model, stored_dtypes(model, torch.bfloat16))
    assert {one.dtype for one in model.parameters()} == {torch.float32}  # all are trained
    model.requires_grad_(False)
    convert_weights(model, stored_dtypes(model, torch.bfloat16))
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert {one.dtype for one in linear_parameters(model)} == {torch.bfloat16}


def test_weights_next_to_adapters_have_the_dtype_of_the_computation() -> None:
    loaded = load_model(TINY_NAME, mapped=True)
    loaded.add_lora(4, 8)
    for dtype in (torch.float32, torch.bfloat16):
        stored = stored_dtypes(loaded.model, dtype)
        assert {stored(one) for one in loaded.model.parameters() if not one.requires_grad} == {dtype}
        assert {stored(one) for one in loaded.model.parameters() if one.requires_grad} == {torch.float32}


def test_placeholders_are_replaced_by_the_same_tensors() -> None:
    module = torch.nn.Linear(3, 2)
    weight, own = module.weight, module.weight.data_ptr()
    with placeholders(module, torch.bfloat16):
        assert (weight.dtype, weight.shape) == (torch.bfloat16, (2, 3))
        assert weight.untyped_storage().nbytes() == 2
    assert (weight.dtype, weight.data_ptr()) == (torch.float32, own)
