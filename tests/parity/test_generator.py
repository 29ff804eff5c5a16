"""Sampling with prefix sharing equals the plain computation, whatever else is in the batch."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from plain_computation import make_groups, make_pair, plain_inputs, shared_logprobs
from tiny_models import EOS, IMAGE_TOKEN, MAKERS
from tiny_policies import Tokenizer, adapters, encode, loaded_of
from virft.generation import hf_generator
from virft.generation.generator import GenerationParams
from virft.generation.hf_generator import HFGenerator, draw
from virft.generation.random_streams import StepKey
from virft.models.attention.layout import pack_row
from virft.types import FinishReason

KEY = StepKey(seed=5, step=2)
PARAMS = GenerationParams(max_completion_tokens=12, temperature=0.9)


def sample(model_type, group_size=6, chosen=(0, 1), params=PARAMS, dtype=torch.float32, device="cpu"):
    _, policy = make_pair(model_type, device)
    policy.to(dtype)
    policy.model.generation_config.eos_token_id = [EOS, *range(20)]  # so that rows end at different times
    groups = make_groups(policy.config)
    encoded = encode(policy, groups)
    drawn = HFGenerator(policy, Tokenizer()).generate([encoded[i] for i in chosen], group_size, params, KEY)
    return policy, encoded, drawn


@pytest.mark.parametrize("model_type", MAKERS)
def test_sampler_logprobs_equal_the_policys(model_type, device, tolerance):
    policy, encoded, drawn = sample(model_type, device=device)
    lengths = {len(c.token_ids) for group in drawn for c in group}
    assert len(lengths) > 3, "rows must end at different times"
    row = pack_row(
        [one.prompt.token_ids for one in encoded],
        [one.positions for one in encoded],
        [[c.token_ids for c in group] for group in drawn],
    ).to(device)
    with torch.no_grad():
        scored = policy(row, features=[one.features for one in encoded])
    sampled = torch.tensor([x for group in drawn for c in group for x in c.sampler_logprobs], device=device)
    assert sampled.std() > 0.3
    torch.testing.assert_close(scored, sampled, atol=tolerance, rtol=0)


@pytest.mark.parametrize("model_type", MAKERS)
def test_prepared_bfloat16_weights_sample_the_same_tokens(model_type, monkeypatch):
    def as_they_are(layers, *, merged):
        assert len(layers) > 10 and not merged
        return nullcontext()

    policy, _, drawn = sample(model_type, dtype=torch.bfloat16)
    assert not any("forward" in vars(layer) for layer in policy.token_layers())
    monkeypatch.setattr(hf_generator, "ready_for_sampling", as_they_are)
    assert sample(model_type, dtype=torch.bfloat16)[2] == drawn


def adapted_policy(model_type, device="cpu"):
    _, policy = make_pair(model_type, device)
    adapters(loaded_of(policy))
    policy.model.generation_config.eos_token_id = [EOS, *range(20)]
    return policy


@pytest.mark.parametrize("model_type", MAKERS)
def test_merged_adapters_sample_as_the_policy(model_type, device, tolerance):
    policy = adapted_policy(model_type, device)
    encoded = encode(policy, make_groups(policy.config))
    exact, merged = (
        HFGenerator(policy, Tokenizer(), merge_adapters=merge).generate(encoded, 6, PARAMS, KEY)
        for merge in (False, True)
    )
    changed = 0.0
    for own, other in zip((c for g in exact for c in g), (c for g in merged for c in g), strict=True):
        assert other.token_ids == own.token_ids
        assert other.sampler_logprobs == pytest.approx(own.sampler_logprobs, abs=2 * tolerance)
        changed = max(changed, *(abs(a - b) for a, b in zip(own.sampler_logprobs, other.sampler_logprobs, strict=True)))
    assert changed > 0, "merged weights round in another order; equal log-probs would mean that nothing was merged"


def test_merged_adapters_in_bfloat16_stay_close_and_leave_the_policy_as_it_was():
    policy = adapted_policy("qwen2_vl")
    for name, parameter in policy.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    groups = make_groups(policy.config)
    encoded = encode(policy, groups)
    before = shared_logprobs(policy, groups)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = HFGenerator(policy, Tokenizer(), merge_adapters=True).generate(encoded, 6, PARAMS, KEY)
        row = pack_row(
            [one.prompt.token_ids for one in encoded],
            [one.positions for one in encoded],
            [[c.token_ids for c in group] for group in drawn],
        )
        with torch.no_grad():
            scored = policy(row, features=[one.features for one in encoded])
    gaps = scored - torch.tensor([x for group in drawn for c in group for x in c.sampler_logprobs])
    assert 0 < gaps.abs().mean() < 0.05
    torch.testing.assert_close(shared_logprobs(policy, groups), before, atol=0, rtol=0)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "gemma3"])
def test_reading_the_ends_less_often_samples_the_same_tokens(model_type, monkeypatch):
    _, _, expected = sample(model_type)
    monkeypatch.setattr(hf_generator, "_CHECK_EVERY", {"cpu": 4})  # as on a GPU: rows have ended before the check
    _, _, found = sample(model_type)
    for own, other in zip((c for g in expected for c in g), (c for g in found for c in g), strict=True):
        assert other.token_ids == own.token_ids
        assert other.sampler_logprobs == pytest.approx(own.sampler_logprobs, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_streamed_completion_equals_the_generated_one(temperature):
    params = GenerationParams(max_completion_tokens=12, temperature=temperature)
    policy, encoded, _ = sample("qwen2_vl", group_size=1)
    generator = HFGenerator(policy.eval(), Tokenizer())
    for prompt in encoded:
        ((whole,),) = generator.generate([prompt], 1, params, KEY)
        stream = generator.stream(prompt, params, KEY)
        texts = []
        with pytest.raises(StopIteration) as end:
            while True:
                texts.append(next(stream))
        assert end.value.value == whole
        assert texts == [whole.text[:n] for n in whole.token_ends]


def test_a_completion_does_not_depend_on_its_batch():
    _, _, together = sample("qwen2_vl", group_size=6)
    _, _, alone = sample("qwen2_vl", group_size=3, chosen=(1,))
    assert [c.token_ids for c in together[1][:3]] == [c.token_ids for c in alone[0]]


def test_completions_of_a_group_differ():
    _, _, drawn = sample("qwen2_vl")
    assert len({c.token_ids for c in drawn[0]}) > 3


def test_forbidden_tokens_are_never_sampled():
    _, _, drawn = sample("qwen2_vl", group_size=64)
    assert IMAGE_TOKEN not in {token for group in drawn for c in group for token in c.token_ids}


def test_completions_end_with_a_stop_token_or_are_truncated():
    _, _, drawn = sample("qwen2_vl")
    for completion in (c for group in drawn for c in group):
        if completion.finish_reason is FinishReason.STOP:
            assert completion.token_ids[-1] in {EOS, *range(20)}
        else:
            assert len(completion.token_ids) == PARAMS.max_completion_tokens
        assert completion.token_ends[-1] == len(completion.text)


@pytest.mark.parametrize("model_type", MAKERS)
def test_greedy_completions_equal_those_of_transformers(model_type, device):
    params = GenerationParams(max_completion_tokens=8, temperature=0.0)
    plain, policy = make_pair(model_type, device)
    groups = make_groups(policy.config)
    drawn = HFGenerator(policy, Tokenizer()).generate(encode(policy, groups), 1, params, KEY)
    for (prompt, vision, _), (completion,) in zip(groups, drawn, strict=True):
        ids = torch.tensor([prompt], device=device)
        out = plain.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            do_sample=False,
            suppress_tokens=[IMAGE_TOKEN],
            **plain_inputs(plain.config, ids, vision.to(device)),
        )
        assert tuple(out[0, len(prompt) :].tolist()) == completion.token_ids


def test_sampled_tokens_follow_the_distribution():
    distribution = torch.log(torch.tensor([[0.5, 0.0, 0.25, 0.25]])).expand(4000, -1)
    uniforms = torch.arange(4000, dtype=torch.float64) / 4000
    counts = torch.bincount(draw(distribution, uniforms), minlength=4)
    assert counts[1] == 0
    assert (counts - torch.tensor([2000, 0, 1000, 1000])).abs().max() <= 1  # rounding at the borders


def test_a_uniform_number_near_1_never_samples_probability_zero():
    distribution = torch.log(torch.tensor([[0.0, 1.0, 0.0]]))
    assert draw(distribution, torch.tensor([0.0], dtype=torch.float64)).item() == 1
    assert draw(distribution, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 1
