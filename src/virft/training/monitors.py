"""Training-health monitors: KL blow-up, entropy collapse, flat accuracy, constant answers, reward hacking.

The state of a monitor is a pure function of the records of ``metrics.jsonl``. It needs no place in a checkpoint, and a
resumed run raises the same alarms.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance

import torch
from torch import nn

from virft.config.schema import MonitorName, MonitorsConfig
from virft.config.wording import counted
from virft.models.sharding import local_shard
from virft.tasks.common_answer import COMMON_ANSWER, COMMON_TARGET
from virft.training.run import VALIDATION_PREFIX

SKIPPED = "skipped"
"""Key of ``metrics.jsonl``: 1 in the record of a step that changed no weight because of a non-finite number."""
VALIDATION_SCORE = "validation_score"
"""Key of ``metrics.jsonl``: the mean headline score over the validation datasets."""

_RELATIVE_RISE, _ABSOLUTE_RISE = 1.05, 0.01
"""A mean has risen if it exceeds 1.05 times its earlier value by more than 0.01: fluctuations around 0 do not count."""
_SMALLEST_REWARD_RISE, _NUM_STANDARD_ERRORS = 0.05, 3.0
"""The mean reward has risen if the difference of two windows exceeds 0.05 and 3 standard errors of that difference."""
_PART = "reward_"
"""Begin of the key of a reward part in ``metrics.jsonl``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """The start of a training problem."""

    monitor: MonitorName
    """The monitor that raised it."""
    observed: Mapping[str, float]
    """The numbers that it was raised for."""
    message: str
    """What they mean, for a log line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardParts:
    """The parts of a run's reward, for the monitor ``accuracy``."""

    accuracy: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value of the parts that measure how close an answer is to its target. Empty: no check."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of parts in the total reward; those that are not named have weight 1."""

    def weight(self, part: str) -> float:
        """The weight of a part in the total."""
        return self.weights.get(part, 1.0)


class HealthMonitors:
    """All monitors of a run, fed with its metrics one record at a time.

    ``num_skipped`` counts the latest consecutive skipped steps.
    """

    def __init__(self, settings: MonitorsConfig, parts: RewardParts | None = None) -> None:
        self.num_skipped = 0
        self._settings = settings
        self._parts = parts or RewardParts()
        # The first and the latest values of each watched metric, at most ``window`` of each.
        self._first: dict[str, list[float]] = {}
        self._latest: dict[str, deque[float]] = {}
        self._num_zero_std = 0
        # kind of record -> the alarms whose condition held at the latest one
        self._active: dict[str, set[MonitorName]] = {}
        self._best: _Validation | None = None

    def add(self, record: Mapping[str, float]) -> list[Alarm]:
        """The alarms that begin with this record of ``metrics.jsonl``.

        An alarm is raised once, and again only if its condition has been false in between.
        """
        # A validation record has no training metrics, and must not count as a step.
        if VALIDATION_SCORE in record:
            alarms = self._check_validation(record[VALIDATION_SCORE]) + self._check_validation_answers(record)
            return self._newly_raised(alarms, "validation")
        if not _is_training_record(record):
            return []
        self.num_skipped = self.num_skipped + 1 if record.get(SKIPPED) else 0
        for name, value in record.items():
            if name in _WATCHED or name.startswith(_PART):
                self._append(name, value)
        if "nonzero_std_frac" in record:
            self._num_zero_std = self._num_zero_std + 1 if record["nonzero_std_frac"] == 0 else 0
        return self._newly_raised(self._check_step(), "step")

    def _append(self, name: str, value: float) -> None:
        first = self._first.setdefault(name, [])
        if len(first) < self._settings.window:
            first.append(value)
        self._latest.setdefault(name, deque(maxlen=self._settings.window)).append(value)

    def _newly_raised(self, alarms: Sequence[Alarm], kind: str) -> list[Alarm]:
        """The alarms whose condition did not hold at the previous record of this kind."""
        before, self._active[kind] = self._active.get(kind, set()), {one.monitor for one in alarms}
        return [one for one in alarms if one.monitor not in before]

    def _latest_mean(self, name: str) -> float | None:
        """Mean of a metric over the latest ``window`` steps; None in earlier steps."""
        latest = self._latest.get(name, ())
        return fmean(latest) if len(latest) == self._settings.window else None

    def _first_mean(self, name: str) -> float | None:
        """Mean of a metric over the first ``window`` steps; None in earlier steps."""
        first = self._first.get(name, ())
        return fmean(first) if len(first) == self._settings.window else None

    def _check_step(self) -> list[Alarm]:
        alarms = (
            self._check_kl(),
            self._check_length(),
            self._check_entropy(),
            self._check_zero_std(),
            self._check_fraction("unreadable", self._settings.max_unreadable_frac),
            self._check_fraction("at_most_1", self._settings.max_at_most_1_frac),
            self._check_fraction("truncated", self._settings.max_truncated_frac),
            self._check_accuracy(),
            self._check_answers(),
        )
        return [one for one in alarms if one is not None]

    def _check_kl(self) -> Alarm | None:
        limit, kl = self._settings.max_kl, self._latest_mean("kl")
        if not limit or kl is None or kl <= limit:
            return None
        message = f"mean KL is {kl:.3g} nats per token over {self._steps()}, above monitors.max_kl = {limit:g}"
        return Alarm(monitor="kl", observed={"kl": kl}, message=message)

    def _check_length(self) -> Alarm | None:
        first, latest = self._first_mean("completion_tokens"), self._latest_mean("completion_tokens")
        limit = self._settings.max_length_ratio
        if not limit or first is None or latest is None or latest <= limit * first:
            return None
        message = (
            f"mean completion length is {latest:.0f} tokens over {self._steps()}, {first:.0f} at the start; "
            f"the ratio is above monitors.max_length_ratio = {limit:g}"
        )
        return Alarm(monitor="length", observed={"tokens": latest, "tokens_at_start": first}, message=message)

    def _check_entropy(self) -> Alarm | None:
        first, latest = self._first_mean("entropy"), self._latest_mean("entropy")
        limit = self._settings.min_entropy_ratio
        if not limit or first is None or latest is None or latest >= limit * first:
            return None
        message = (
            f"entropy collapse: {latest:.2g} nats per token over {self._steps()}, {first:.2g} at the start; the ratio "
            f"is below monitors.min_entropy_ratio = {limit:g}, the completions of a prompt are nearly identical"
        )
        return Alarm(monitor="entropy", observed={"entropy": latest, "entropy_at_start": first}, message=message)

    def _check_zero_std(self) -> Alarm | None:
        limit, count = self._settings.max_zero_std_steps, self._num_zero_std
        if not limit or count < limit:
            return None
        message = f"zero reward variance in every group for {counted(count, 'step')}: all their advantages are 0"
        return Alarm(monitor="zero_std", observed={"steps": count}, message=message)

    def _check_fraction(self, monitor: MonitorName, limit: float) -> Alarm | None:
        name = f"{monitor}_frac"
        fraction = self._latest_mean(name)
        if not limit or fraction is None or fraction <= limit:
            return None
        fault = _FAULTS.get(monitor, f"are {monitor}")
        message = f"{fraction:.0%} of completions {fault} over {self._steps()}, above monitors.max_{name} = {limit:g}"
        return Alarm(monitor=monitor, observed={name: fraction}, message=message)

    def _check_accuracy(self) -> Alarm | None:
        """Alarm if the reward has risen and no part that measures accuracy has."""
        rise = self._rise("reward")
        if not self._settings.min_accuracy_frac or rise is None or rise < self._smallest_reward_rise():
            return None
        rises = {
            name.removeprefix(_PART): part_rise
            for name in self._latest
            if name.startswith(_PART) and (part_rise := self._rise(name)) is not None
        }
        accuracy = [name for name in self._parts.accuracy if name in rises and self._parts.weight(name) > 0]
        flat = [name for name in accuracy if self._is_flat(name, rises[name], reward_rise=rise)]
        if not accuracy or flat != accuracy:
            return None
        largest = max(rises, key=lambda name: self._parts.weight(name) * rises[name])
        means = {name: (self._first_mean(name), self._latest_mean(name)) for name in ("reward", f"{_PART}{flat[0]}")}
        (reward_before, reward_now), (part_before, part_now) = means.values()
        assert reward_before is not None and reward_now is not None and part_before is not None and part_now is not None
        fraction = self._parts.weight(largest) * rises[largest] / rise
        message = (
            f"the mean reward rose from {reward_before:.3f} to {reward_now:.3f}, "
            f"{'all' if fraction > 0.9 else 'most'} of it in `{largest}`; `{flat[0]}` is flat at {part_now:.2f}: the "
            "answers come no closer to the ground truth. Usual causes: a learning rate that is too low, an IoU "
            "threshold that no box exceeds, a weight of other parts that is too high"
        )
        observed = {
            "reward": reward_now,
            "reward_at_start": reward_before,
            flat[0]: part_now,
            f"{flat[0]}_at_start": part_before,
        }
        return Alarm(monitor="accuracy", observed=observed, message=message)

    def _is_flat(self, part: str, rise: float, *, reward_rise: float) -> bool:
        """True if a part contributes little to the rise of the reward and is in the lower half of its range."""
        low, high = self._parts.accuracy[part]
        now = self._latest_mean(_PART + part)
        fraction = self._parts.weight(part) * rise / reward_rise
        return now is not None and now < (low + high) / 2 and fraction < self._settings.min_accuracy_frac

    def _rise(self, name: str) -> float | None:
        """The latest mean minus the first; None before there are two windows."""
        first, latest = self._first_mean(name), self._latest_mean(name)
        return None if first is None or latest is None else latest - first

    def _smallest_reward_rise(self) -> float:
        """The difference of the mean reward between two windows that counts as a rise."""
        window, smallest = self._settings.window, _SMALLEST_REWARD_RISE
        if window > 1:
            variances = variance(self._first["reward"]) + variance(self._latest["reward"])
            smallest = max(smallest, _NUM_STANDARD_ERRORS * math.sqrt(variances / window))
        # half of it for an active alarm: a reward that fluctuates about the limit must not raise it again and again
        return smallest / 2 if "accuracy" in self._active.get("step", ()) else smallest

    def _check_answers(self) -> Alarm | None:
        answer, target = self._latest_mean(COMMON_ANSWER), self._latest_mean(COMMON_TARGET)
        if answer is None or target is None:
            return None
        return self._collapse_alarm(answer, target, f"sampled answers over {self._steps()}", kind="step")

    def _check_validation_answers(self, record: Mapping[str, float]) -> list[Alarm]:
        """Alarm for the first validation set, in the order of the record, whose answers are nearly all the same."""
        prefix = VALIDATION_PREFIX + COMMON_ANSWER
        for name, answer in record.items():
            if name.startswith(prefix):
                origin = name.removeprefix(prefix)
                target = record[VALIDATION_PREFIX + COMMON_TARGET + origin]
                alarm = self._collapse_alarm(answer, target, f"validation{origin}", kind="validation")
                if alarm is not None:
                    return [alarm]
        return []

    def _collapse_alarm(self, answer: float, target: float, where: str, *, kind: str) -> Alarm | None:
        limit = self._settings.max_common_answer_frac
        # half of it for an active alarm, as in ``_smallest_reward_rise``
        smallest = limit / 2 if "collapse" in self._active.get(kind, ()) else limit
        if not limit or answer - target <= smallest:
            return None
        message = (
            f"the answers collapse: {answer:.0%} of the images get the same answer ({where}), such as one box or "
            f'"No Objects", while {target:.0%} have the same ground truth; the model ignores the image'
        )
        return Alarm(monitor="collapse", observed={COMMON_ANSWER: answer, COMMON_TARGET: target}, message=message)

    def _check_validation(self, score: float) -> list[Alarm]:
        """Alarms for a proxy that rises while the validation score falls below its best: reward hacking."""
        means = {name: mean for name in _PROXIES if (mean := self._latest_mean(name)) is not None}
        if self._best is None or score > self._best.score:
            self._best = _Validation(score, means)
            return []
        limit = self._settings.max_score_drop
        if not limit or self._best.score - score <= limit:
            return []
        fall = f"the validation score fell from {self._best.score:.3f} to {score:.3f}"
        observed = {"score": score, "best_score": self._best.score}
        found: dict[MonitorName, Alarm] = {}
        for name, (monitor, description) in _PROXIES.items():
            # No step precedes the validation of the base model: it is compared with the first steps.
            before = self._best.means.get(name, self._first_mean(name))
            if before is None or name not in means or means[name] <= _RELATIVE_RISE * before + _ABSOLUTE_RISE:
                continue
            message = f"{fall} while {description} rose from {before:.3f} to {means[name]:.3f}"
            values = observed | {name: means[name], f"best_{name}": before}
            # of two proxies of one monitor, the first is reported
            found.setdefault(monitor, Alarm(monitor=monitor, observed=values, message=message))
        return list(found.values())

    def _steps(self) -> str:
        return counted(self._settings.window, "step")


@dataclass(frozen=True, slots=True)
class _Validation:
    """A validation score, and the means of ``_PROXIES`` over the steps before it; empty for the base model."""

    score: float
    means: Mapping[str, float]


_PROXIES: Mapping[str, tuple[MonitorName, str]] = {
    "reward": ("reward_hacking", "the mean reward"),
    "boxes_per_answer": ("boxes", "the mean number of boxes of an answer"),
    "duplicate_frac": ("boxes", "the fraction of duplicate boxes"),
}
"""Metric -> the monitor that it belongs to, and its name in a message. Optimizing them alone games the reward."""
_FAULTS: Mapping[str, str] = {
    "at_most_1": "have all numbers at most 1 (fractions of the image, so they are unreadable)",
}
"""Monitor of a fraction -> what its completions have in common, if its name does not say it."""
_WATCHED = (
    "kl",
    "completion_tokens",
    "entropy",
    "unreadable_frac",
    "at_most_1_frac",
    "truncated_frac",
    COMMON_ANSWER,
    COMMON_TARGET,
    *_PROXIES,
)


def _is_training_record(record: Mapping[str, float]) -> bool:
    return any(not name.startswith(VALIDATION_PREFIX) for name in record if name != "step")


def is_finite(module: nn.Module) -> bool:
    """True if every trained weight on this rank is finite."""
    trained = (local_shard(parameter) for parameter in module.parameters() if parameter.requires_grad)
    flags = [one.isfinite().all() for one in trained]
    # one synchronization with the GPU for all parameters, not one for each
    return not flags or bool(torch.stack(flags).all())


def all_finite(values: Sequence[float]) -> bool:
    """True if no value is NaN or infinite."""
    return all(math.isfinite(value) for value in values)
