"""The GRPO loss of completion tokens, all variants in one formula."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLoss:
    """The loss of a microbatch and its diagnostics, each a scalar tensor summed over tokens with their weights."""

    loss: Tensor
    """The loss, with gradient."""
    kl: Tensor
    """Mean per-token KL to the reference, in nats, without gradient; 0 without a reference."""
    clip_frac: Tensor
    """Fraction of tokens whose ratio is clipped, without gradient."""


def policy_loss(
    logprobs: Tensor,
    *,
    advantages: Tensor,
    weights: Tensor,
    old_logprobs: Tensor | None = None,
    importance: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    clip_range: float = 0.2,
    kl_coef: float = 0.0,
) -> PolicyLoss:
    """Sum over N completion tokens of weight x (-ratio x advantage + kl_coef x KL).

    All tensors are float of shape (N,), log-probs in nats. ``weights`` contain the denominator of the whole step and
    decide between the per-sequence mean and the other variants. Without ``old_logprobs`` the batch is used for one
    update: the ratio is 1 and only its gradient counts. With them the ratio is clipped to 1 +- ``clip_range`` on the
    pessimistic side (PPO). ``importance`` weighs the advantage term of tokens that another engine sampled, see
    ``importance_weights``. KL is the k3 estimator exp(d) - d - 1 with d = reference - policy. Source: Visual-RFT code.
    """
    # On-policy, old is the policy itself: exp(x - x.detach()) is 1 with the gradient of the log-prob.
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = torch.exp(logprobs - old)
    gain = ratio * advantages
    clipped = torch.zeros_like(gain)
    if old_logprobs is not None:
        bounded = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
        clipped = (bounded < gain).float()
        # the minimum bounds the gain of a large policy change, but never the loss of one
        gain = torch.minimum(gain, bounded)
    if importance is not None:
        gain = gain * importance
    loss = -(weights * gain).sum()
    kl = torch.zeros_like(logprobs)
    if reference_logprobs is not None:
        # k3 is unbiased as -difference is, but non-negative for each token and of lower variance
        difference = reference_logprobs - logprobs
        kl = torch.exp(difference) - difference - 1
        loss = loss + kl_coef * (weights * kl).sum()
    return PolicyLoss(loss=loss, kl=(weights * kl).sum().detach(), clip_frac=(weights * clipped).sum().detach())


def demonstration_loss(logprobs: Tensor, weights: Tensor, *, as_ratio: bool) -> Tensor:
    """Loss of demonstration tokens, a scalar: -sum of weight x log-prob, or of weight x ratio.

    ``logprobs``: float tensor of shape (M,), in nats, with gradient. ``weights``: float tensor of shape (M,); they
    contain the coefficient or the advantage, and the denominator of the whole step. ``as_ratio``: the ratio
    exp(log-prob - log-prob without gradient) of a group member, which is 1 and never clipped; its gradient is that of
    the log-prob, so both forms have equal gradients.
    """
    values = torch.exp(logprobs - logprobs.detach()) if as_ratio else logprobs
    return -(weights * values).sum()


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, *, cap: float) -> Tensor:
    """Truncated importance weights of shape (N,), without gradient: exp(policy - sampler), at most ``cap``.

    For tokens that another engine sampled, whose log-probs differ from the policy's (off-policy correction). Both
    arguments are log-probs of shape (N,) in nats; ``logprobs`` are the policy's before the update. The cap bounds the
    effect of one token on the gradient; below it, the weighted mean is that of samples of the policy. Source: truncated
    importance sampling (Ionides, 2008), for two engines by Yao et al. (2025), with a cap of 2.

    >>> policy, sampler = torch.tensor([0.5, 0.4, 0.9]).log(), torch.tensor([0.5, 0.8, 0.3]).log()
    >>> [round(weight, 4) for weight in importance_weights(policy, sampler, cap=2.0).tolist()]
    [1.0, 0.5, 2.0]
    """
    return torch.exp(logprobs.detach() - sampler_logprobs).clamp(max=cap)
