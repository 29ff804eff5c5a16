"""Frozen weights in the precision of the computation."""

from __future__ import annotations

import copy

import pytest
import torch

from plain_computation import make_groups, make_pair
from tiny_models import MAKERS
from virft.models.attention.layout import pack_row
from virft.models.policy import Policy
from virft.training.trainable import cast_frozen, linear_parameters


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
    cast_frozen(frozen, torch.bfloat16)
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
    cast_frozen(model, torch.bfloat16)
    assert {one.dtype for one in model.parameters()} == {torch.float32}  # all are trained
    model.requires_grad_(False)
    cast_frozen(model, torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert {one.dtype for one in linear_parameters(model)} == {torch.bfloat16}
