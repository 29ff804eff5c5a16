"""The GRPO loss of completion tokens, all variants in one formula."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLoss:
    """``loss``: a scalar to run backward. The others are weighted sums over tokens, without gradient."""

    loss: Tensor
    kl: Tensor
    clip_frac: Tensor


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
    """Weighted sum over completion tokens [N] of -ratio x advantage + kl_coef x KL.

    Without ``old_logprobs`` the batch is used once: the ratio is 1 and only its gradient counts. With them the
    ratio is clipped to 1 +- ``clip_range``, the pessimistic side (PPO). ``importance`` [N] weighs the advantage's part
    of tokens that another engine sampled, see ``importance_weights``. KL is the k3 estimator exp(d) - d - 1,
    d = reference - policy. Source: Visual-RFT code; weights decide between its per-sequence mean and the others.
    """
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = torch.exp(logprobs - old)
    gain = ratio * advantages
    clipped = torch.zeros_like(gain)
    if old_logprobs is not None:
        bounded = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
        clipped = (bounded < gain).float()
        gain = torch.minimum(gain, bounded)
    if importance is not None:
        gain = gain * importance
    loss = -(weights * gain).sum()
    kl = torch.zeros_like(logprobs)
    if reference_logprobs is not None:
        difference = reference_logprobs - logprobs
        kl = torch.exp(difference) - difference - 1
        loss = loss + kl_coef * (weights * kl).sum()
    return PolicyLoss(loss=loss, kl=(weights * kl).sum().detach(), clip_frac=(weights * clipped).sum().detach())


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, *, cap: float) -> Tensor:
    """What each token [N] of another engine weighs: exp(policy - sampler), at most ``cap``, without gradient.

    ``logprobs`` are the policy's before the update, in nats. The cap bounds what one token can do to the gradient;
    below it the weighted mean is that of the policy's own samples. Source: truncated importance sampling (Ionides,
    2008), for two engines by Yao et al. (2025), with a cap of 2.

    >>> policy, sampler = torch.tensor([0.5, 0.4, 0.9]).log(), torch.tensor([0.5, 0.8, 0.3]).log()
    >>> [round(weight, 4) for weight in importance_weights(policy, sampler, cap=2.0).tolist()]
    [1.0, 0.5, 2.0]
    """
    return torch.exp(logprobs.detach() - sampler_logprobs).clamp(max=cap)
