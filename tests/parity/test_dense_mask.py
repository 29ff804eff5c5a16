"""Shared-prompt attention equals plain attention with a dense mask (the oracle), on the same packed row."""

from __future__ import annotations

import pytest
import torch

from plain_computation import make_groups, make_pair
from tiny_models import IMAGE_TOKEN, MAKERS, tiny_model
from virft.models.attention.layout import pack_row, position_ids


def dense_mask(groups):
    """Return the mask, bool [1, 1, T, T]: causal, within a prompt, and for a completion within itself too."""
    owners = []  # of every row token: group and completion (0: the prompt)
    for number, (prompt, _, completions) in enumerate(groups):
        owners += [(number, 0)] * len(prompt)
        for i, one in enumerate(completions, start=1):
            owners += [(number, i)] * len(one)
    mask = torch.tensor(
        [
            [a_group == b_group and other in (0, own) and j <= i for j, (b_group, other) in enumerate(owners)]
            for i, (a_group, own) in enumerate(owners)
        ]
    )
    return mask[None, None]


def masks_of(config, mask, row):
    """Return the mask; for Gemma one per layer type, with a sliding window. Images are bidirectional in Gemma 3."""
    back = row.positions[0][:, None] - row.positions[0]
    window = getattr(config.get_text_config(), "sliding_window", None)
    if config.model_type == "gemma4":
        return {"full_attention": mask, "sliding_attention": mask & (back < window)}
    if config.model_type != "gemma3":
        return mask
    # neighbouring image tokens are of one image: markers separate two images
    is_image = row.token_ids == IMAGE_TOKEN
    block = torch.where(is_image, (~is_image).cumsum(0), -1)
    mask = mask | ((block[:, None] == block) & is_image)
    return {"full_attention": mask, "sliding_attention": mask & (back < window)}


@pytest.mark.parametrize("model_type", MAKERS)
def test_shared_prompt_attention_equals_a_dense_mask(model_type, device, tolerance):
    plain, policy = make_pair(model_type, device)
    groups = make_groups(plain.config)
    features = policy.encode_images([vision.to(device) for _, vision, _ in groups])
    positions = [policy.family.prompt_positions(plain, torch.tensor(prompt), vision) for prompt, vision, _ in groups]
    row = pack_row([prompt for prompt, _, _ in groups], positions, [completions for _, _, completions in groups])
    row = row.to(device)
    with torch.no_grad():
        expected = plain.model(
            input_ids=row.token_ids[None],
            position_ids=position_ids(row.positions[:, None]),
            attention_mask=masks_of(plain.config, dense_mask(groups).to(device), row),
            use_cache=False,
            **policy.family.forward_features(features),
        ).last_hidden_state[0]
        found = policy.hidden_states(row, features)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)  # numbers of up to 20


def test_the_mask_differs_from_a_causal_one():
    # under a causal mask over the whole row completions would see their siblings
    mask_of = make_groups(tiny_model("qwen2_vl").config)
    mask = dense_mask(mask_of)
    assert (mask != torch.ones_like(mask).tril()).sum() > 100
