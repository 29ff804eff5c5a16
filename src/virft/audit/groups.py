"""Rollout groups of the untrained model: how many have equal rewards, and whether reward and metric agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from virft.audit.audit import rank_correlation
from virft.tasks import TASKS
from virft.training.grpo.trainer import GRPOTrainer
from virft.types import RolloutGroup, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupsReport:
    """Statistics of rollout groups."""

    num_groups: int
    """Number of groups."""
    group_size: int
    """Completions per group."""
    equal_frac: float
    """Fraction of groups whose rewards are all equal: their advantages are 0, so they teach nothing."""
    reward: float
    """Mean reward of a completion."""
    metric: float
    """Mean of ``Task.score`` of a completion, in [0, 1]."""
    rank_correlation: float | None
    """Mean over groups of the rank correlation of reward and metric; None if both vary in no group."""


def sample_groups(
    trainer: GRPOTrainer, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None
) -> list[RolloutGroup]:
    """Return a rollout group for each sample, sampled and rewarded as in the first step of a run."""
    groups: list[RolloutGroup] = []
    for sample in samples:
        groups += trainer.sample(0, [sample])
        if progress is not None:
            progress(len(groups), len(samples))
    return groups


def judge_groups(groups: Sequence[RolloutGroup]) -> GroupsReport:
    """Return the statistics of at least one group."""
    metrics = [
        [TASKS[group.sample.task].score(report.reading, group.sample.target) for report in group.reports]
        for group in groups
    ]
    correlations = [
        found
        for group, measured in zip(groups, metrics, strict=True)
        if (found := rank_correlation(group.rewards, measured)) is not None
    ]
    return GroupsReport(
        num_groups=len(groups),
        group_size=len(groups[0].completions),
        equal_frac=fmean(len(set(group.rewards)) == 1 for group in groups),
        reward=fmean(total for group in groups for total in group.rewards),
        metric=fmean(value for measured in metrics for value in measured),
        rank_correlation=fmean(correlations) if correlations else None,
    )
