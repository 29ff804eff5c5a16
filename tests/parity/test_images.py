"""Encoding images of several prompts in one forward pass equals encoding each alone."""

from __future__ import annotations

import pytest
import torch

from plain_computation import make_groups, make_pair
from tiny_models import MAKERS


@pytest.mark.parametrize("model_type", MAKERS)
@pytest.mark.parametrize("values_per_pass", [16 * 96, 1 << 24])  # an image of 16 patches of 2 x 3 x 4 x 4 values
def test_images_encoded_in_one_batch_equal_those_encoded_alone(
    model_type, values_per_pass, device, tolerance, monkeypatch
):
    monkeypatch.setattr("virft.models.policy.MAX_PASS_VALUES", values_per_pass)
    _, policy = make_pair(model_type, device)
    visions = [vision.to(device) for _, vision, _ in make_groups(policy.config)] * 2
    with torch.no_grad():
        together = policy.encode_images(visions)
        alone = [policy.encode_images([vision])[0] for vision in visions]
    assert together[0].tokens[0].std() > 0.01
    assert len(together) == len(alone)
    for found, expected in zip(together, alone, strict=True):
        for one, other in zip((found.tokens, *found.deep), (expected.tokens, *expected.deep), strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
