"""Token rules and log-probs: temperature, forbidden tokens, blocks and chunks of logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from plain_computation import make_groups, make_pair, shared_logprobs
from virft.models import policy as policy_module
from virft.models.policy import TokenRules


def test_temperature_divides_the_logits() -> None:
    found = TokenRules(temperature=2.0).log_distribution(torch.tensor([0.0, 2 * math.log(3)]))
    # logits / 2: odds 1 to 3
    assert found.exp().tolist() == pytest.approx([0.25, 0.75])


def test_forbidden_tokens_have_probability_0() -> None:
    found = TokenRules(forbidden_ids=(1,)).log_distribution(torch.zeros(2, 3))
    assert found[1].tolist() == pytest.approx([math.log(0.5), -math.inf, math.log(0.5)])


def test_half_precision_logits_are_scored_in_float32() -> None:
    assert TokenRules().log_distribution(torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scoring_in_blocks_of_rows_changes_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 96, generator=generator).to(dtype)
    targets, outer = torch.randint(50, 96, (7,), generator=generator), torch.randn(7, generator=generator)
    rules = TokenRules(temperature=0.7, forbidden_ids=(3, 4))

    def run(chosen: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = logits.clone().requires_grad_()
        found = chosen(leaf)
        return found.detach(), torch.autograd.grad(found, leaf, outer)[0]

    whole, gradient = run(lambda one: rules.chosen(one, targets))
    monkeypatch.setattr(policy_module, "_BLOCK_LOGITS", {"cpu": 2 * 96})  # the last block has one row
    found, found_gradient = run(lambda one: policy_module._Chosen.apply(one, targets, rules))
    assert torch.equal(found, whole)
    assert torch.equal(found_gradient, gradient)
    assert found_gradient.dtype == dtype
    assert (found_gradient[:, [3, 4]] == 0).all()
    assert (found_gradient != 0).sum() > 7 * 80


def test_logits_in_chunks_give_the_same_numbers_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    _, policy = make_pair("qwen2_vl")
    groups = make_groups(policy.config)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        policy.zero_grad()
        found = shared_logprobs(policy, groups)
        found.square().mean().backward()
        return found.detach(), policy.model.lm_head.weight.grad.clone()

    whole, gradient = run()
    monkeypatch.setattr(policy_module, "_CHUNK_BYTES", 5 * 96 * 4)  # 5 rows of 96 tokens in a chunk
    monkeypatch.setattr(policy_module, "_BLOCK_LOGITS", {"cpu": 2 * 96})
    chunked, chunked_gradient = run()
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(chunked_gradient, gradient, atol=1e-6, rtol=0)
