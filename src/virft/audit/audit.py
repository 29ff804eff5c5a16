"""Every cheat and every honest answer to a data set, paid and measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.stats import spearmanr

from virft.audit.attacks import attack_texts, known_answers
from virft.audit.oracle import HALF_RIGHT, honest_texts
from virft.geometry.boxes import BoxSpace
from virft.metrics.question_score import question_score
from virft.rewards.combine import reward
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.types import RewardContext, Sample, TaskName


@dataclass(frozen=True, kw_only=True, slots=True)
class PaidAnswer:
    """What one way to answer earns on average over the questions of a task: ``reward``, and ``metric`` (0 to 1)."""

    name: str
    is_honest: bool
    reward: float
    parts: Mapping[str, float]
    metric: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """The ways to answer, best paid first, at one moment of a run (``step_frac``: 0 its first step, 1 its last).

    ``rank_correlation``: of reward and metric over them (Spearman), 1 where more pay always means a better answer;
    None where all are paid the same.
    """

    task: TaskName
    step_frac: float
    num_samples: int
    paid: tuple[PaidAnswer, ...]
    rank_correlation: float | None

    @property
    def best_cheat(self) -> PaidAnswer:
        """The best paid of those that never look."""
        return next(one for one in self.paid if not one.is_honest)

    @property
    def half_right(self) -> PaidAnswer:
        """What it is held against."""
        return next(one for one in self.paid if one.name == HALF_RIGHT)

    @property
    def margin(self) -> float:
        """How much more a half right honest answer earns than the best cheat; below 0, cheating pays."""
        return self.half_right.reward - self.best_cheat.reward


def audit(
    samples: Sequence[Sample], grader: Grader, progress: Callable[[int, int], None] | None = None
) -> list[AuditReport]:
    """One report for each task, and for the first and the last step where the rewards of these differ.

    ``progress`` is told how many samples are done, and of how many.
    """
    by_task: dict[TaskName, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample)
    moves = grader.rule.iou_threshold_end not in (None, grader.rule.iou_threshold)
    reports = []
    done = 0
    for task, asked in by_task.items():
        sums: dict[tuple[float, str], list[tuple[float, Mapping[str, float], float]]] = defaultdict(list)
        honest: set[str] = set()
        known = known_answers(asked)
        moments = (0.0, 1.0) if moves and task is TaskName.DETECTION else (1.0,)
        thinking = [grader.of(sample).thinking for sample in asked]
        # a mixture may think in some of its sets: each is then written in its own way
        written = {way: list(honest_texts(asked, thinking=way)) for way in set(thinking)}
        for i, sample in enumerate(asked):
            right = written[thinking[i]][i]
            honest |= right.keys()
            for name, text in (right | attack_texts(sample, known, thinking=thinking[i])).items():
                for moment in moments:
                    sums[moment, name].append(_paid(text, sample, grader, moment))
            done += 1
            if progress is not None:
                progress(done, len(samples))
        for moment in moments:
            paid = [_mean(name, name in honest, rows) for (at, name), rows in sums.items() if at == moment]
            paid.sort(key=lambda one: -one.reward)
            reports.append(
                AuditReport(
                    task=task,
                    step_frac=moment,
                    num_samples=len(asked),
                    paid=tuple(paid),
                    rank_correlation=rank_correlation([one.reward for one in paid], [one.metric for one in paid]),
                )
            )
    return reports


def rank_correlation(rewards: Sequence[float], metrics: Sequence[float]) -> float | None:
    """Spearman's; None where either does not vary.

    >>> rank_correlation([1, 2, 3], [0.1, 0.2, 0.9]), rank_correlation([1, 1], [0, 1])
    (1.0, None)
    """
    if len(set(rewards)) < 2 or len(set(metrics)) < 2:
        return None
    return round(float(spearmanr(rewards, metrics).statistic), 6)


def _paid(text: str, sample: Sample, grader: Grader, moment: float) -> tuple[float, Mapping[str, float], float]:
    own = grader.of(sample)
    reading = TASKS[sample.task].read_for(
        text, sample, thinking=own.thinking, space=BoxSpace.RELATIVE_1000, resized=sample.target_size
    )
    report = reward(own.rule, sample.task, reading, sample.target, RewardContext(step_frac=moment))
    return report.total, report.parts, question_score(reading, sample.target)


def _mean(name: str, is_honest: bool, rows: Sequence[tuple[float, Mapping[str, float], float]]) -> PaidAnswer:
    return PaidAnswer(
        name=name,
        is_honest=is_honest,
        reward=fmean(total for total, _, _ in rows),
        parts={part: fmean(parts[part] for _, parts, _ in rows) for part in rows[0][1]},
        metric=fmean(metric for _, _, metric in rows),
    )
