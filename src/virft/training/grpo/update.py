"""Sums over the microbatches of one optimizer update (gradient accumulation)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from virft.training.grpo.loss import PolicyLoss

_NATS, _TOKENS = "demonstration_nats", "demonstration_tokens"
"""Keys of sums: negative log-prob of the targets' tokens in nats, and number of these tokens."""
_GAPS, _CAPPED, _CORRECTED = "sampler_gaps", "capped_tokens", "corrected_tokens"
"""Keys of sums: absolute gaps to the sampler in nats, tokens with a capped importance weight, tokens with a weight."""


class UpdateTotals:
    """Loss and diagnostics of one optimizer update on this rank, added up one microbatch at a time.

    ``sums`` have the denominator of the whole step and are to be summed over ranks; ``largest_gap`` is the largest
    absolute difference, in nats, of a token's log-prob between policy and sampler. ``nonfinite_samples`` are the ids of
    samples in microbatches whose loss is not finite. ``has_demonstrations``, ``has_importance``: the sums count
    demonstrations, and importance weights.
    """

    def __init__(self, *, has_demonstrations: bool = False, has_importance: bool = False) -> None:
        self.sums = {"loss": 0.0, "kl": 0.0, "clip_frac": 0.0}
        if has_importance:
            self.sums |= {_GAPS: 0.0, _CAPPED: 0.0, _CORRECTED: 0.0}
        if has_demonstrations:
            self.sums |= {_NATS: 0.0, _TOKENS: 0.0}
        self.largest_gap = 0.0
        self.nonfinite_samples: list[str] = []

    def add(self, result: PolicyLoss, *, gaps: Tensor, sample_ids: Sequence[str]) -> None:
        """Add a microbatch: its loss, and ``gaps`` of shape (N,), policy minus sampler log-probs in nats."""
        loss = result.loss.item()
        if not math.isfinite(loss):
            self.nonfinite_samples += sample_ids
        # Python floats, so in float64: the rounding of this sum is far below that of a float32 loss.
        self.sums["loss"] += loss
        self.sums["kl"] += result.kl.item()
        self.sums["clip_frac"] += result.clip_frac.item()
        if len(gaps):
            self.largest_gap = max(self.largest_gap, gaps.abs().max().item())

    def add_demonstrations(self, loss: Tensor, cross_entropy: Tensor, *, sample_ids: Sequence[str]) -> None:
        """Add the demonstrations of a microbatch: their loss, a scalar, and -log-prob of each token of the targets."""
        value = loss.item()
        if not math.isfinite(value):
            self.nonfinite_samples += sample_ids
        self.sums["loss"] += value
        self.sums[_NATS] += cross_entropy.sum().item()
        self.sums[_TOKENS] += len(cross_entropy)

    def add_importance(self, importance: Tensor, *, gaps: Tensor, cap: float) -> None:
        """Add a microbatch with off-policy correction: importance weights and ``gaps``, both of shape (N,)."""
        self.sums[_GAPS] += gaps.abs().sum().item()
        self.sums[_CAPPED] += importance.ge(cap).sum().item()
        self.sums[_CORRECTED] += len(gaps)


def demonstration_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Remove the sums of demonstrations; their mean cross-entropy in nats per token, if there were any."""
    nats, tokens = sums.pop(_NATS, 0.0), sums.pop(_TOKENS, 0.0)
    return {"demonstration_loss": nats / tokens} if tokens else {}


def off_policy_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Remove the sums of importance weights; the mean gap to the sampler and the fraction of capped weights.

    Empty if no token was corrected.
    """
    gaps, capped, tokens = (sums.pop(name, 0.0) for name in (_GAPS, _CAPPED, _CORRECTED))
    return {"sampler_gap_mean": gaps / tokens, "capped_frac": capped / tokens} if tokens else {}


def merge_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a step: those of its last update, but the gap to the sampler of the first; empty without updates.

    After the first update the policy has moved, and its distance to the sampler is no longer an error of the engine.
    """
    if not updates:
        return {}
    of_first = {name: updates[0][name] for name in ("sampler_gap", "sampler_gap_mean") if name in updates[0]}
    return {**updates[-1], **of_first}
