"""What the base model's own groups say of a reward: how many have a spread, and whether more pay is a better answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from virft.audit.audit import rank_correlation
from virft.metrics.question_score import question_score
from virft.training.grpo.trainer import GRPOTrainer
from virft.types import RolloutGroup, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupsReport:
    """Of ``num_groups``: the share whose answers are all paid the same, from which nothing is learnt;

    mean reward and metric of an answer; the mean of the groups' rank correlations of reward and metric, of those
    groups in which both vary (None where there is none).
    """

    num_groups: int
    group_size: int
    equal_frac: float
    reward: float
    metric: float
    rank_correlation: float | None


def sample_groups(
    trainer: GRPOTrainer, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None
) -> list[RolloutGroup]:
    """A group for each sample, as the first step of a run would draw and pay them."""
    groups: list[RolloutGroup] = []
    for sample in samples:
        groups += trainer.sample(0, [sample])
        if progress is not None:
            progress(len(groups), len(samples))
    return groups


def judge_groups(groups: Sequence[RolloutGroup]) -> GroupsReport:
    """What the groups say."""
    metrics = [[question_score(report.reading, group.sample.target) for report in group.reports] for group in groups]
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
