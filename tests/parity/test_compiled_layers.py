"""Compiled layers equal eager ones for rows of every length, and sampling stays eager."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AttentionInterface

from literal_grpo import assert_same_gradients
from plain_computation import make_groups, make_pair, plain_logprobs, shared_logprobs
from tiny_policies import Tokenizer, adapters, encode, loaded_of, needs_compiler
from virft.errors import ConfigError
from virft.generation.generator import GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.models.attention.shared_prompt import SHARED_PROMPT, shared_prompt_attention
from virft.models.policy import Policy

pytestmark = pytest.mark.skipif(os.environ.get("VIRFT_TEST_DEVICE") == "simulated", reason="it cannot be compiled for")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)


def num_graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@needs_compiler
@pytest.mark.parametrize("model_type", ["qwen2_vl", "gemma3"])
def test_compiled_logprobs_and_gradients_equal_eager_for_rows_of_every_length(
    model_type: str, device: torch.device, tolerance: float
) -> None:
    plain, policy = make_pair(model_type, device)
    loaded_of(policy).compile_layers()
    groups = make_groups(plain.config)
    expected, found = plain_logprobs(plain, groups), shared_logprobs(policy, groups)
    assert num_graphs() > 0
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    expected.mean().backward()
    found.mean().backward()
    assert_same_gradients(plain, policy.model, at_least=20, tolerance=tolerance)

    before = num_graphs()
    for others in (groups[:1], groups[1:], make_groups(plain.config, seed=1)[::-1]):
        with torch.no_grad():
            expected = plain_logprobs(plain, others)
        torch.testing.assert_close(shared_logprobs(policy, others), expected, atol=tolerance, rtol=0)
    assert num_graphs() == before


@needs_compiler
def test_compiled_layers_work_with_adapters_and_checkpointing(device: torch.device, tolerance: float) -> None:
    policies: list[Policy] = []
    for is_compiled in (False, True):
        _, policy = make_pair("qwen2_vl", device)
        adapters(loaded := loaded_of(policy))
        policy.to(device)
        loaded.checkpoint_gradients()
        if is_compiled:
            loaded.compile_layers()
        policies.append(policy.train())
    by_layers, by_compiled = (shared_logprobs(policy, make_groups(policy.config)) for policy in policies)
    assert num_graphs() > 0
    torch.testing.assert_close(by_compiled, by_layers, atol=tolerance, rtol=0)
    by_layers.mean().backward()
    by_compiled.mean().backward()
    assert_same_gradients(policies[0].model, policies[1].model, at_least=42, tolerance=tolerance)


@needs_compiler
def test_a_copy_of_compiled_layers_uses_its_own_weights(device: torch.device, tolerance: float) -> None:
    _, policy = make_pair("qwen2_vl", device)
    loaded_of(policy).compile_layers()
    groups = make_groups(policy.config)
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        before = shared_logprobs(policy, groups)
        for weight in policy.model.model.language_model.layers.parameters():
            weight *= 1.5
        assert (shared_logprobs(policy, groups) - before).abs().max() > 0.1
        torch.testing.assert_close(shared_logprobs(reference, groups), before, atol=tolerance, rtol=0)


@needs_compiler
def test_sampling_stays_eager_and_samples_the_same_tokens(device: torch.device) -> None:
    drawn = []
    for is_compiled in (False, True):
        _, policy = make_pair("qwen2_vl", device)
        policy.model.generation_config.eos_token_id = 94
        if is_compiled:
            loaded_of(policy).compile_layers()
            counters.clear()
        prompts = encode(policy, make_groups(policy.config))
        params, key = GenerationParams(max_completion_tokens=12), StepKey(seed=5, step=2)
        drawn.append(HFGenerator(policy, Tokenizer()).generate(prompts, 4, params, key))
    assert drawn[0] == drawn[1]
    assert num_graphs() == 0


def test_a_machine_without_a_compiler_gets_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise RuntimeError("No working C++ compiler found\nin many places")

    _, policy = make_pair("qwen2_vl")
    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(ConfigError, match=r"^model\.compile is true, .*: No working C\+\+ compiler found; expected"):
        loaded_of(policy).compile_layers()
    assert not any("forward" in vars(layer) for layer in policy.model.model.language_model.layers)
