"""Weights of demonstrations in the loss of a step: coefficient of the cross-entropy, or advantage in the group."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from virft.config.schema import GRPOConfig
from virft.training.grpo.advantages import GroupAdvantages, advantages_with_demonstrations, group_advantages
from virft.training.grpo.demonstrations import Demonstration, success
from virft.training.grpo.pack import WeightedDemonstration, token_weights
from virft.training.grpo.rollout import Rollout
from virft.types import RolloutGroup


def advantages_of(
    config: GRPOConfig, groups: Sequence[RolloutGroup], demonstrations: Sequence[Sequence[Demonstration]]
) -> list[GroupAdvantages]:
    """Advantages of each group's completions and, if they are members of it, of its demonstrations."""
    scale = config.scale_by_std
    if config.demonstrations != "group":
        return [GroupAdvantages(group_advantages(group.rewards, scale_by_std=scale).tolist()) for group in groups]
    return [
        advantages_with_demonstrations(
            group.rewards,
            [one.reward for one in members],
            scale_by_std=scale,
            in_mean=config.demonstration_in_mean,
        )
        for group, members in zip(groups, demonstrations, strict=True)
    ]


def weigh_demonstrations(
    config: GRPOConfig, rollout: Rollout, *, max_completion_tokens: int, step_frac: float
) -> list[list[WeightedDemonstration]]:
    """Demonstrations of this rank's groups with the weights of their tokens, without those of weight 0.

    The denominators are those of the whole step, over all ranks: with "loss" the number of demonstration tokens, with
    "group" that of the completions. ``step_frac``: fraction of the run that is done, in [0, 1].
    """
    length_weight = token_weights(rollout.counted, config.loss, max_completion_tokens)
    num_tokens = sum(one.num_loss_tokens for members in rollout.demonstrations for one in members)

    def weigh(one: Demonstration, rate: float) -> WeightedDemonstration:
        value = rate * length_weight(len(one.token_ids)) if config.demonstrations == "group" else rate / num_tokens
        return WeightedDemonstration(one.token_ids, [value * is_in for is_in in one.in_loss], one.is_target)

    own = rollout.own
    rates = _rates(config, own.groups, own.demonstrations, rollout.own_advantages, step_frac)
    return [
        [weigh(one, rate) for one, rate in zip(members, of_group, strict=True) if rate]
        for members, of_group in zip(own.demonstrations, rates, strict=True)
    ]


def _rates(
    config: GRPOConfig,
    groups: Sequence[RolloutGroup],
    demonstrations: Sequence[Sequence[Demonstration]],
    advantages: Sequence[GroupAdvantages],
    step_frac: float,
) -> list[Sequence[float]]:
    """The coefficient of each group's demonstrations, or their advantages; a demonstration of rate 0 is not packed."""
    if config.demonstrations == "group":
        return [one.demonstrations for one in advantages]
    return [
        [coefficient(config, group, step_frac)] * len(members) if members else ()
        for group, members in zip(groups, demonstrations, strict=True)
    ]


def coefficient(config: GRPOConfig, group: RolloutGroup, step_frac: float) -> float:
    """Coefficient of the cross-entropy of a group's demonstration; ``step_frac`` as in ``weigh_demonstrations``."""
    coef = linear(config.demonstration_coef, config.demonstration_coef_end, step_frac)
    return coef * (1.0 - success(group)) if config.demonstration_fade else coef


def linear(start: float, end: float | None, step_frac: float) -> float:
    """A value that moves linearly from ``start`` to ``end`` over the run; constant without an end.

    >>> linear(0.5, 0.0, 0.5), linear(0.5, None, 0.5)
    (0.25, 0.5)
    """
    return start if end is None else start + (end - start) * step_frac


def demonstration_step_metrics(config: GRPOConfig, rollout: Rollout, *, step_frac: float) -> dict[str, float]:
    """Mean coefficient or advantage of the step's demonstrations, and the tokens of those in the loss.

    Separate from ``group_metrics``, which describes the policy's own completions. Empty without demonstrations.
    """
    if config.demonstrations == "off":
        return {}
    rates = _rates(config, rollout.groups, rollout.demonstrations, rollout.advantages, step_frac)
    metrics: dict[str, float] = {
        "demonstration_tokens": sum(
            len(one.token_ids)
            for members, of_group in zip(rollout.demonstrations, rates, strict=True)
            for one, rate in zip(members, of_group, strict=True)
            if rate
        )
    }
    if config.demonstrations == "loss":
        metrics["demonstration_coef"] = fmean(coefficient(config, one, step_frac) for one in rollout.first)
    elif targets := [one.demonstrations[0] for one in rollout.advantages if one.demonstrations]:
        metrics["demonstration_advantage"] = fmean(targets)
    return metrics
