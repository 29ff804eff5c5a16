"""Rewards and scores of every probe and every oracle answer, averaged over a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from scipy.stats import spearmanr

from virft.audit.oracle import oracle_texts
from virft.audit.probes import probe_texts
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.task import HALF_RIGHT
from virft.types import Reading, RewardContext, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedAnswer:
    """Mean reward and score of one kind of answer over the questions of a task.

    ``is_oracle``: made from the ground truth; else a probe. ``metric``: mean of ``Task.score``, in [0, 1].
    """

    name: str
    is_oracle: bool
    reward: float
    parts: Mapping[str, float]
    metric: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """The kinds of answer, highest reward first, at one moment of a run.

    ``step_frac``: 0 is the first step, 1 the last; None if all steps have the same rewards. ``rank_correlation``:
    Spearman's, of reward and metric over the kinds of answer: 1 if a higher reward always means a better answer; None
    if all have the same reward.
    """

    task: str
    step_frac: float | None
    num_samples: int
    answers: tuple[AuditedAnswer, ...]
    rank_correlation: float | None

    @property
    def best_probe(self) -> AuditedAnswer:
        """The probe with the highest reward."""
        return next(one for one in self.answers if not one.is_oracle)

    @property
    def half_right(self) -> AuditedAnswer:
        """The oracle answer of medium quality."""
        return next(one for one in self.answers if one.name == HALF_RIGHT)

    @property
    def margin(self) -> float:
        """Reward of the half-right oracle answer minus that of the best probe; the audit passes above 0."""
        return self.half_right.reward - self.best_probe.reward

    @property
    def exploits(self) -> tuple[AuditedAnswer, ...]:
        """Probes with the reward of the half-right answer or more, but a lower metric: the reward can be hacked."""
        return tuple(one for one in self._passing() if one.metric < self.half_right.metric)

    @property
    def good_blind_answers(self) -> tuple[AuditedAnswer, ...]:
        """Probes with the reward and the metric of the half-right answer or more.

        The reward is correct for them: the dataset does not distinguish a model that sees from a constant answer.
        """
        return tuple(one for one in self._passing() if one.metric >= self.half_right.metric)

    def _passing(self) -> list[AuditedAnswer]:
        return [one for one in self.answers if not one.is_oracle and one.reward >= self.half_right.reward]


def audit_reward(
    samples: Sequence[Sample], grader: Grader, progress: Callable[[int, int], None] | None = None
) -> list[AuditReport]:
    """Return a report for each task, and for the first and the last step if their rewards differ.

    ``progress`` is called with the number of finished samples and their total.
    """
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample)
    moves = grader.rule.iou_threshold_end not in (None, grader.rule.iou_threshold)
    reports = []
    done = 0
    for name, own in by_task.items():
        task = TASKS[name]
        sums: dict[tuple[float, str], list[tuple[float, Mapping[str, float], float]]] = defaultdict(list)
        oracle: set[str] = set()
        probes = task.probes(own)
        moments = (0.0, 1.0) if moves and task.rewards[grader.rule.preset].uses_threshold else (1.0,)
        thinking = [grader.of(sample).thinking for sample in own]
        # A mixture may think in some of its datasets only: each is then written in its own way.
        written = {way: list(oracle_texts(own, thinking=way)) for way in set(thinking)}
        for i, sample in enumerate(own):
            known = written[thinking[i]][i]
            oracle |= known.keys()
            texts = known | probe_texts(sample, probes, thinking=thinking[i])
            readings = {kind: _read(text, sample, thinking=thinking[i]) for kind, text in texts.items()}
            for moment in moments:
                context = RewardContext(step_frac=moment)
                segmented = grader.segment_answers(sample, list(readings.values()), [context] * len(readings))
                for (kind, reading), masks in zip(readings.items(), segmented, strict=True):
                    report = grader.reward(reading, sample, replace(context, segmented=masks))
                    sums[moment, kind].append((report.total, report.parts, task.score(reading, sample.target)))
            done += 1
            if progress is not None:
                progress(done, len(samples))
        for moment in moments:
            answers = [_mean(kind, kind in oracle, rows) for (at, kind), rows in sums.items() if at == moment]
            answers.sort(key=lambda one: -one.reward)
            reports.append(
                AuditReport(
                    task=name,
                    step_frac=moment if len(moments) > 1 else None,
                    num_samples=len(own),
                    answers=tuple(answers),
                    rank_correlation=rank_correlation([one.reward for one in answers], [one.metric for one in answers]),
                )
            )
    return reports


def rank_correlation(rewards: Sequence[float], metrics: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None if either is constant.

    >>> rank_correlation([1, 2, 3], [0.1, 0.2, 0.9]), rank_correlation([1, 1], [0, 1])
    (1.0, None)
    """
    if len(set(rewards)) < 2 or len(set(metrics)) < 2:
        return None
    return round(float(spearmanr(rewards, metrics).statistic), 6)


def _read(text: str, sample: Sample, *, thinking: bool) -> Reading:
    space, size = BoxSpace.RELATIVE_1000, sample.target_size
    return TASKS[sample.task].read_for(text, sample, thinking=thinking, space=space, resized=size)


def _mean(name: str, is_oracle: bool, rows: Sequence[tuple[float, Mapping[str, float], float]]) -> AuditedAnswer:
    # The part `mask` is missing for samples without a mask, and averaged over the others.
    return AuditedAnswer(
        name=name,
        is_oracle=is_oracle,
        reward=fmean(total for total, _, _ in rows),
        parts={
            part: fmean(parts[part] for _, parts, _ in rows if part in parts)
            for part in dict.fromkeys(part for _, parts, _ in rows for part in parts)
        },
        metric=fmean(metric for _, _, metric in rows),
    )
