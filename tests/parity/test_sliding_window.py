"""A sliding window smaller than the prompt: windows count tokens of prompt and completion, not places in the row."""

from __future__ import annotations

import torch

from literal_grpo import assert_same_gradients
from plain_computation import make_groups, pair_of, plain_logprobs, shared_logprobs
from tiny_models import tiny_model, tiny_model_with_window
from tiny_policies import Tokenizer, encode
from virft.generation.generator import GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.models.attention.layout import pack_row


def test_the_window_changes_the_model(device):
    # the same weights without the window: if they gave the same, the tests below could not fail
    windowed, _ = pair_of(tiny_model_with_window(), device)
    whole, _ = pair_of(tiny_model("qwen2_vl"), device)
    whole.load_state_dict(windowed.state_dict())
    groups = make_groups(windowed.config)
    assert set(windowed.config.text_config.layer_types) == {"sliding_attention"}
    assert (plain_logprobs(windowed, groups) - plain_logprobs(whole, groups)).abs().max() > 0.1


def test_logprobs_and_gradients_equal_transformers(device, tolerance):
    plain, policy = pair_of(tiny_model_with_window(), device)
    groups = make_groups(plain.config)
    expected, found = plain_logprobs(plain, groups), shared_logprobs(policy, groups)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(1)).to(device) / len(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert_same_gradients(plain, policy.model, at_least=20, tolerance=tolerance)


def test_sampler_logprobs_equal_the_policys(device, tolerance):
    _, policy = pair_of(tiny_model_with_window(), device)
    groups = make_groups(policy.config)
    encoded = encode(policy, groups)
    params = GenerationParams(max_completion_tokens=12, temperature=0.9)
    drawn = HFGenerator(policy, Tokenizer()).generate(encoded, 4, params, StepKey(seed=0, step=0))
    assert max(len(one.token_ids) for group in drawn for one in group) > 7, "longer than the window"
    row = pack_row(
        [one.prompt.token_ids for one in encoded],
        [one.positions for one in encoded],
        [[c.token_ids for c in group] for group in drawn],
    ).to(device)
    with torch.no_grad():
        scored = policy(row, features=[one.features for one in encoded])
    sampled = torch.tensor([x for group in drawn for c in group for x in c.sampler_logprobs], device=device)
    torch.testing.assert_close(scored, sampled, atol=tolerance, rtol=0)
