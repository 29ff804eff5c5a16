"""What turns logits into the distribution that is sampled and scored."""

from __future__ import annotations

import math

import pytest
import torch

from plain_computation import make_groups, make_pair, shared_logprobs
from virft.models import logprobs
from virft.models.logprobs import TokenRules


def test_temperature_divides_the_logits() -> None:
    found = TokenRules(temperature=2.0).log_distribution(torch.tensor([0.0, 2 * math.log(3)]))
    # logits / 2: odds 1 to 3
    assert found.exp().tolist() == pytest.approx([0.25, 0.75])


def test_forbidden_tokens_have_probability_0_and_the_others_share_the_rest() -> None:
    found = TokenRules(forbidden_ids=(1,)).log_distribution(torch.zeros(2, 3))
    assert found[1].tolist() == pytest.approx([math.log(0.5), -math.inf, math.log(0.5)])


def test_half_precision_logits_are_scored_in_float32() -> None:
    assert TokenRules().log_distribution(torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.float32


def test_logits_in_chunks_give_the_same_numbers_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    _, policy = make_pair("qwen2_vl")
    groups = make_groups(policy.config)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        policy.zero_grad()
        found = shared_logprobs(policy, groups)
        found.square().mean().backward()
        return found.detach(), policy.model.lm_head.weight.grad.clone()

    whole, gradient = run()
    monkeypatch.setattr(logprobs, "_CHUNK_LOGITS", 5 * 96)  # 5 rows of 96 tokens at once
    chunked, chunked_gradient = run()
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(chunked_gradient, gradient, atol=1e-6, rtol=0)
