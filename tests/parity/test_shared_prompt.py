"""Prefix sharing equals the plain computation: each completion alone, with image and prompt every time."""

from __future__ import annotations

import pytest
import torch

from literal_grpo import assert_same_gradients
from plain_computation import make_groups, make_pair, plain_logprobs, shared_logprobs
from tiny_models import MAKERS
from virft.models.attention import shared_prompt
from virft.models.vision import VisionInputs


@pytest.mark.parametrize("model_type", MAKERS)
def test_prefix_sharing_leaves_logprobs_and_gradients(model_type, device, tolerance):
    plain, policy = make_pair(model_type, device)
    groups = make_groups(plain.config)
    expected, found = plain_logprobs(plain, groups), shared_logprobs(policy, groups)
    assert expected.std() > 0.3, "log-probs must vary, or equality says nothing"
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(1)).to(device) / len(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    compared = 0
    for (name, a), b in zip(plain.named_parameters(), policy.model.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None or b.grad.abs().max() == 0, name
            continue
        torch.testing.assert_close(b.grad, a.grad, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        compared += a.grad.abs().max() > 1e-4
    assert compared > 20


@pytest.mark.parametrize("model_type", MAKERS)
def test_logprobs_depend_on_the_image(model_type, device):
    _, policy = make_pair(model_type, device)
    groups = make_groups(policy.config)
    first = shared_logprobs(policy, groups)
    prompt, vision, completions = groups[0]
    other = VisionInputs(pixel_values=vision.pixel_values.flip(-1) * 2, per_image=vision.per_image)
    second = shared_logprobs(policy, [(prompt, other, completions), groups[1]])
    count = sum(len(c) for c in completions)
    assert (first[:count] - second[:count]).abs().max() > 1e-2
    torch.testing.assert_close(first[count:], second[count:])


@pytest.mark.parametrize("model_type", ["qwen2_vl", "gemma3"])
def test_long_prompts_and_images_give_the_same_numbers_with_the_fused_kernel(
    model_type, monkeypatch, device, tolerance
):
    monkeypatch.setattr(shared_prompt, "_SHORT_PROMPT", 0)
    monkeypatch.setattr(shared_prompt, "_SHORT_VISION", 0)
    monkeypatch.setattr(shared_prompt, "_SMALL_TABLES", 0)
    plain, policy = make_pair(model_type, device)
    groups = make_groups(plain.config)
    expected, found = plain_logprobs(plain, groups), shared_logprobs(policy, groups)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    expected.mean().backward()
    found.mean().backward()
    assert_same_gradients(plain, policy.model, at_least=20)


@pytest.mark.parametrize("model_type", MAKERS)
def test_logprobs_do_not_depend_on_other_groups_of_the_row(model_type, device, tolerance):
    # another group with a longer prompt and more, longer completions pads the tables
    _, policy = make_pair(model_type, device)
    groups = make_groups(policy.config)
    with torch.no_grad():
        alone = shared_logprobs(policy, groups[:1])
        first = shared_logprobs(policy, groups)[: len(alone)]
        last = shared_logprobs(policy, groups[::-1])[-len(alone) :]
    torch.testing.assert_close(first, alone, atol=tolerance, rtol=0)
    torch.testing.assert_close(last, alone, atol=tolerance, rtol=0)
