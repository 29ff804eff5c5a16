"""The loss of completion tokens: expected values are literal numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from virft.training.grpo.loss import importance_weights, policy_loss

HALF = torch.tensor([0.5, 0.5])


def logprobs(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def gradient(of: Tensor) -> list[float]:
    assert of.grad is not None
    return of.grad.tolist()


def test_a_batch_used_once_has_ratio_1_and_the_gradient_of_weighted_advantages() -> None:
    policy = logprobs(-1.0, -2.0)
    result = policy_loss(policy, advantages=torch.tensor([1.0, -3.0]), weights=HALF)
    # -(0.5 x 1 x 1 + 0.5 x 1 x -3) = 1
    assert result.loss.item() == 1.0
    result.loss.backward()
    # d/d logp of -w A exp(logp - logp') is -w A: -0.5 and 1.5
    assert gradient(policy) == [-0.5, 1.5]


def test_the_ratio_to_the_samplers_probability_scales_the_gain() -> None:
    # the policy's probability is 1.1 and 0.9 times the sampler's, inside 1 +- 0.2
    old = torch.tensor([-1.0, -2.0])
    policy = logprobs(-1.0 + math.log(1.1), -2.0 + math.log(0.9))
    result = policy_loss(policy, advantages=torch.tensor([1.0, 1.0]), weights=HALF, old_logprobs=old, clip_range=0.2)
    # -(0.5 x 1.1 + 0.5 x 0.9) = -1
    assert result.loss.item() == pytest.approx(-1.0)
    assert result.clip_frac.item() == 0.0
    result.loss.backward()
    # -w A ratio: -0.55 and -0.45
    assert gradient(policy) == pytest.approx([-0.55, -0.45])


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "clipped"),
    [
        (1.5, 2.0, 2.4, True),  # 1.2 x 2: no more is gained above the range
        (0.5, -2.0, -1.6, True),  # 0.8 x -2: nor below it
        (0.5, 2.0, 1.0, False),  # 0.5 x 2: the pessimistic side is not clipped
        (1.5, -2.0, -3.0, False),  # 1.5 x -2
    ],
)
def test_the_pessimistic_side_of_the_clipped_ratio_counts(
    ratio: float, advantage: float, gain: float, clipped: bool
) -> None:
    policy = logprobs(math.log(ratio))
    result = policy_loss(
        policy,
        advantages=torch.tensor([advantage]),
        weights=torch.ones(1),
        old_logprobs=torch.zeros(1),
        clip_range=0.2,
    )
    assert result.loss.item() == pytest.approx(-gain)
    assert result.clip_frac.item() == float(clipped)
    result.loss.backward()
    assert (gradient(policy) == [0.0]) is clipped


def test_kl_is_the_k3_estimator() -> None:
    policy = logprobs(-1.0, -2.0)
    reference = torch.tensor([-1.5, -1.0])
    result = policy_loss(policy, advantages=torch.zeros(2), weights=HALF, reference_logprobs=reference, kl_coef=0.1)
    # d = -0.5 and 1: exp(-0.5) + 0.5 - 1 = 0.10653 and e - 1 - 1 = 0.71828; mean 0.41241
    kl = 0.5 * (math.exp(-0.5) + 0.5 - 1) + 0.5 * (math.e - 2)
    assert result.kl.item() == pytest.approx(kl)
    assert result.loss.item() == pytest.approx(0.1 * kl)
    result.loss.backward()
    # d/d logp of exp(d) - d - 1 is 1 - exp(d), times 0.1 x 0.5
    assert gradient(policy) == pytest.approx([0.05 * (1 - math.exp(-0.5)), 0.05 * (1 - math.e)])


def test_by_default_the_ratio_is_clipped_to_a_fifth_and_kl_costs_nothing() -> None:
    old, reference = torch.zeros(1), torch.tensor([5.0])
    result = policy_loss(
        logprobs(math.log(1.5)),
        advantages=torch.ones(1),
        weights=torch.ones(1),
        old_logprobs=old,
        reference_logprobs=reference,
    )
    assert result.loss.item() == pytest.approx(-1.2)
    assert result.kl.item() > 1.0


def test_the_kl_of_equal_policies_is_0_with_no_gradient() -> None:
    policy = logprobs(-1.0, -2.0)
    result = policy_loss(
        policy, advantages=torch.zeros(2), weights=HALF, reference_logprobs=policy.detach(), kl_coef=1.0
    )
    result.loss.backward()
    assert result.kl.item() == 0.0
    assert gradient(policy) == [0.0, 0.0]


def test_numbers_beside_the_loss_carry_no_gradient() -> None:
    policy = logprobs(-1.0)
    result = policy_loss(
        policy,
        advantages=torch.ones(1),
        weights=torch.ones(1),
        old_logprobs=torch.zeros(1),
        reference_logprobs=torch.zeros(1),
        kl_coef=1.0,
    )
    assert not result.kl.requires_grad
    assert not result.clip_frac.requires_grad


def test_importance_weights_are_ratios_up_to_the_cap() -> None:
    policy = torch.tensor([0.3, 0.1, 0.9]).log().requires_grad_()
    sampler = torch.tensor([0.2, 0.4, 0.1]).log()
    weights = importance_weights(policy, sampler, cap=2.0)
    # 0.3 / 0.2, 0.1 / 0.4, and 0.9 / 0.1 cut to 2
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.25, 2.0]))
    assert not weights.requires_grad


def test_importance_weighs_the_gain_and_leaves_kl_alone() -> None:
    policy = logprobs(-1.0, -2.0)
    result = policy_loss(
        policy,
        advantages=torch.tensor([1.0, -3.0]),
        weights=HALF,
        importance=torch.tensor([2.0, 0.5]),
        reference_logprobs=torch.tensor([-1.0, -2.0 + math.log(2)]),
        kl_coef=1.0,
    )
    # -(0.5 x 2 x 1 + 0.5 x 0.5 x -3) = -0.25; KL of the second token: 2 - log 2 - 1, weight 0.5
    assert result.loss.item() == pytest.approx(-0.25 + 0.5 * (1 - math.log(2)))
    result.loss.backward()
    # gain: -w A i, so -1 and 0.75; KL: 0.5 x (1 - 2) of the second
    assert gradient(policy) == pytest.approx([-1.0, 0.75 - 0.5])
