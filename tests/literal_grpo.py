"""GRPO written out as in the paper, each completion alone: the reference for the packed step.

Its advantages, weights and clipping are independent of ``virft.training.grpo``.

Source: DeepSeekMath (arXiv 2402.03300).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from factories import reading, sample
from group_factories import completion
from plain_computation import device_of, plain_logprobs
from virft.config.schema import LossKind
from virft.generation.generator import EncodedPrompt
from virft.models.policy import Policy
from virft.models.vision import ImageFeatures, VisionInputs
from virft.training.grpo.loss import policy_loss
from virft.training.grpo.pack import Microbatch, pack_step
from virft.types import Detections, Prompt, RewardReport, RolloutGroup

TinyGroup = tuple[list[int], VisionInputs, list[list[int]]]
"""Prompt, images, completions, as ``plain_computation.make_groups`` makes them."""

REWARDS = ((0.2, 1.7, 0.4), (1.0, 2.5, 0.3, 0.9))
MAX_COMPLETION_TOKENS = 12


def literal_loss(
    groups: Sequence[TinyGroup],
    rewards: Sequence[Sequence[float]],
    logprobs: Callable[[TinyGroup], Tensor],
    *,
    kind: LossKind,
    kl_coef: float,
    reference: Callable[[TinyGroup], Tensor] | None = None,
    sampler: Sequence[Sequence[Tensor]] | None = None,
    clip_range: float = 0.2,
) -> Tensor:
    """Return the loss of a step. ``logprobs`` and ``reference`` get groups of one completion."""
    num_completions = sum(len(completions) for _, _, completions in groups)
    num_tokens = sum(len(one) for _, _, completions in groups for one in completions)
    total: Any = 0.0  # then a tensor on the device of the log-probs
    for g, (prompt, vision, completions) in enumerate(groups):
        mean, std = statistics.mean(rewards[g]), statistics.stdev(rewards[g])
        for i, one in enumerate(completions):
            alone: TinyGroup = (prompt, vision, [one])
            advantage = (rewards[g][i] - mean) / (std + 1e-4) if std > 0 else 0.0
            policy = logprobs(alone)
            old = policy.detach() if sampler is None else sampler[g][i]
            ratio = (policy - old).exp()
            gain = ratio * advantage
            if sampler is not None:
                gain = torch.min(gain, ratio.clip(1 - clip_range, 1 + clip_range) * advantage)
            tokens = -gain
            if reference is not None and kl_coef:
                with torch.no_grad():
                    distance = reference(alone)
                distance = distance - policy
                tokens = tokens + kl_coef * (distance.exp() - distance - 1)
            if kind == "sequence_mean":
                total = total + tokens.mean() / num_completions
            elif kind == "token_mean":
                total = total + tokens.sum() / num_tokens
            else:
                total = total + tokens.sum() / MAX_COMPLETION_TOKENS / num_completions
    found: Tensor = total
    return found


def plain(model: nn.Module) -> Callable[[TinyGroup], Tensor]:
    """Return a function that computes log-probs of a group with the unmodified model."""
    return lambda group: plain_logprobs(model, [group])


def as_rollouts(
    policy: Policy,
    groups: Sequence[TinyGroup],
    rewards: Sequence[Sequence[float]],
    sampler: Sequence[Sequence[Tensor]] | None = None,
) -> tuple[list[RolloutGroup], list[EncodedPrompt]]:
    """Convert groups to the types of the trainer, with image features of the policy, without gradient."""
    rollouts, encoded = [], []
    for g, (ids, vision, completions) in enumerate(groups):
        prompt = Prompt(sample_id=str(g), text="", token_ids=tuple(ids), images=())
        logprobs = [x.tolist() for x in sampler[g]] if sampler is not None else [[-1.0] * len(c) for c in completions]
        rollouts.append(
            RolloutGroup(
                sample=sample(id=str(g)),
                prompt=prompt,
                completions=tuple(completion(c, logprobs=x) for c, x in zip(completions, logprobs, strict=True)),
                reports=tuple(RewardReport(total=r, parts={}, reading=reading(Detections())) for r in rewards[g]),
                policy_step=0,
            )
        )
        with torch.no_grad():
            (features,) = policy.encode_images([vision.to(device_of(policy))])
        positions = policy.family.prompt_positions(policy.model, torch.tensor(ids), vision)
        encoded.append(EncodedPrompt(prompt=prompt, positions=positions, features=features))
    return rollouts, encoded


def packed_batches(
    policy: Policy,
    groups: Sequence[TinyGroup],
    rewards: Sequence[Sequence[float]],
    *,
    kind: LossKind = "sequence_mean",
    microbatch_tokens: int = 4096,
    drop_equal: bool = False,
) -> tuple[list[Microbatch], list[ImageFeatures]]:
    """Return the packed rows of a step, and the image features of its groups."""
    rollouts, encoded = as_rollouts(policy, groups, rewards)
    batches = pack_step(
        rollouts,
        encoded,
        loss=kind,
        max_completion_tokens=MAX_COMPLETION_TOKENS,
        scale_by_std=True,
        drop_equal=drop_equal,
        microbatch_tokens=microbatch_tokens,
    )
    return batches, [one.features for one in encoded]


def packed_backward(
    policy: Policy,
    groups: Sequence[TinyGroup],
    batches: Sequence[Microbatch],
    *,
    features: Sequence[ImageFeatures] | None = None,
    reference: Callable[[Microbatch], Tensor] | None = None,
    kl_coef: float = 0.0,
) -> float:
    """Return the loss of a step, after a backward per row. ``features``: of a frozen tower; None: run the tower."""
    total = 0.0
    device = device_of(policy)
    for batch in batches:
        result = policy_loss(
            shared(policy, groups, batch, features),
            advantages=batch.advantages.to(device),
            weights=batch.weights.to(device),
            reference_logprobs=reference(batch) if reference is not None else None,
            kl_coef=kl_coef,
        )
        result.loss.backward()
        total += result.loss.item()
    return total


def shared(
    policy: Policy, groups: Sequence[TinyGroup], batch: Microbatch, features: Sequence[ImageFeatures] | None = None
) -> Tensor:
    """Return the log-probs of a row."""
    device = device_of(policy)
    row = batch.row.to(device)
    if features is not None:
        return policy(row, features=[features[i] for i in batch.prompts])  # type: ignore[no-any-return]
    return policy(row, vision=[groups[i][1].to(device) for i in batch.prompts])  # type: ignore[no-any-return]


def assert_same_gradients(expected: nn.Module, found: Any, *, at_least: int, tolerance: float = 1e-5) -> None:
    """Assert that all gradients are equal, and that ``at_least`` parameters have one that is clearly not 0."""
    clear = 0
    for (name, a), (other, b) in zip(expected.named_parameters(), found.named_parameters(), strict=True):
        assert name == other
        if a.grad is None:
            assert b.grad is None or b.grad.abs().max() == 0, name
            continue
        assert b.grad is not None, name
        # rounding grows with the gradient; that of Gemma 4's embeddings is multiplied by their scale
        within = tolerance * a.grad.norm().clamp_min(1).item()
        torch.testing.assert_close(b.grad, a.grad, atol=within, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        clear += bool(a.grad.abs().max() > 100 * tolerance)
    assert clear >= at_least, f"only {clear} gradients are clearly not 0"
