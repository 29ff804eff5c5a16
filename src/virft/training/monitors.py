"""Alarms of a run: what its numbers say of a training that goes wrong.

What a guard knows is a pure function of the records of ``metrics.jsonl``, so a resumed run raises the same alarms.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import nn

from virft.models.sharding import local_shard

GuardName = Literal["kl", "length", "entropy", "spread", "unreadable", "truncated", "boxes", "gaming"]

SKIPPED = "skipped"
"""In a record of ``metrics.jsonl``: 1 of a step that changed no weight because a number was not finite."""
VALIDATION_SCORE = "validation_score"

_RISE, _MARGIN = 1.05, 0.01
"""A mean has risen if it is above this much of what it was, and by more than the margin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardSettings:
    """As in ``virft.config.schema.GuardsConfig``: 0 switches a guard off."""

    nonfinite: Literal["skip", "stop"] = "skip"
    nonfinite_steps: int = 3
    window: int = 10
    max_kl: float = 10.0
    max_length_ratio: float = 4.0
    min_entropy_ratio: float = 0.1
    max_equal_steps: int = 20
    max_unreadable_frac: float = 0.5
    max_truncated_frac: float = 0.5
    max_score_drop: float = 0.05
    stop_on: tuple[GuardName, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NonFinite:
    """That a step came to a number that is none. ``what``: "reward", "loss" or "gradient norm".

    ``samples``: the ids of those that it came from; of a gradient norm, all that were learnt from. ``why``: what a
    user's own function did, if it was one.
    """

    what: str
    samples: tuple[str, ...]
    why: str = ""

    def in_words(self) -> str:
        """What and where.

        >>> NonFinite(what="loss", samples=("a", "b")).in_words()
        'loss is not a finite number (samples a, b)'
        """
        shown = ", ".join(self.samples[:8]) + (", .." if len(self.samples) > 8 else "")
        return f"{self.what} is not a finite number (samples {shown})" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """That something began to go wrong: which guard saw it, the numbers, and what they mean."""

    guard: GuardName
    saw: Mapping[str, float]
    told: str


class Watch:
    """The guards of a run. ``num_skipped``: how many of its last steps were skipped, one after the other."""

    def __init__(self, settings: GuardSettings) -> None:
        self.num_skipped = 0
        self._settings = settings
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, deque[float]] = {}
        self._num_equal = 0
        self._raised: set[GuardName] = set()
        self._best: _Validation | None = None

    def add(self, record: Mapping[str, float]) -> list[Alarm]:
        """The alarms that begin with this record: each is raised again only when its cause was gone in between."""
        if VALIDATION_SCORE in record:
            return self._changed(self._of_validation(record[VALIDATION_SCORE]), {"boxes", "gaming"})
        if not _is_of_training(record):
            return []
        self.num_skipped = self.num_skipped + 1 if record.get(SKIPPED) else 0
        for name in _WATCHED:
            if name in record:
                self._add(name, record[name])
        return self._changed(self._of_steps(record), {"kl", "length", "entropy", "spread", "unreadable", "truncated"})

    def _add(self, name: str, value: float) -> None:
        first = self._first.setdefault(name, [])
        if len(first) < self._settings.window:
            first.append(value)
        self._last.setdefault(name, deque(maxlen=self._settings.window)).append(value)

    def _changed(self, alarms: Sequence[Alarm], looked_for: set[GuardName]) -> list[Alarm]:
        begun = [one for one in alarms if one.guard not in self._raised]
        self._raised = (self._raised - looked_for) | {one.guard for one in alarms}
        return begun

    def _now(self, name: str) -> float | None:
        """The mean over the last steps, once there are enough of them."""
        last = self._last.get(name, ())
        return fmean(last) if len(last) == self._settings.window else None

    def _then(self, name: str) -> float | None:
        """The mean over the first steps, once there are enough of them."""
        first = self._first.get(name, ())
        return fmean(first) if len(first) == self._settings.window else None

    def _of_steps(self, record: Mapping[str, float]) -> list[Alarm]:
        found: list[Alarm] = []
        settings, steps = self._settings, f"over {self._settings.window} steps"
        if settings.max_kl and (kl := self._now("kl")) is not None and kl > settings.max_kl:
            told = f"KL is {kl:.3g} nats a token {steps}; more than guards.max_kl = {settings.max_kl:g}"
            found.append(Alarm(guard="kl", saw={"kl": kl}, told=told))
        found += self._of_length() + self._of_entropy()
        if "spread_frac" in record:
            self._num_equal = self._num_equal + 1 if record["spread_frac"] == 0 else 0
        if settings.max_equal_steps and self._num_equal >= settings.max_equal_steps:
            told = f"in {self._num_equal} steps no group's rewards differed: nothing is learnt"
            found.append(Alarm(guard="spread", saw={"steps": self._num_equal}, told=told))
        shares: tuple[tuple[GuardName, float], ...] = (
            ("unreadable", settings.max_unreadable_frac),
            ("truncated", settings.max_truncated_frac),
        )
        for guard, most in shares:
            if most and (share := self._now(f"{guard}_frac")) is not None and share > most:
                told = f"{share:.0%} of the answers are {guard} {steps}; more than guards.max_{guard}_frac = {most:g}"
                found.append(Alarm(guard=guard, saw={f"{guard}_frac": share}, told=told))
        return found

    def _of_length(self) -> list[Alarm]:
        then, now = self._then("completion_tokens"), self._now("completion_tokens")
        most = self._settings.max_length_ratio
        if not most or then is None or now is None or now <= most * then:
            return []
        told = (
            f"completions have {now:.0f} tokens over {self._settings.window} steps, at the beginning {then:.0f}; "
            f"more than {most:g} times as many (guards.max_length_ratio)"
        )
        return [Alarm(guard="length", saw={"tokens": now, "tokens_at_first": then}, told=told)]

    def _of_entropy(self) -> list[Alarm]:
        then, now, least = self._then("entropy"), self._now("entropy"), self._settings.min_entropy_ratio
        if not least or then is None or now is None or now >= least * then:
            return []
        told = (
            f"entropy is {now:.2g} nats a token over {self._settings.window} steps, at the beginning {then:.2g}; "
            f"less than {least:g} of it (guards.min_entropy_ratio): answers to a question have become the same"
        )
        return [Alarm(guard="entropy", saw={"entropy": now, "entropy_at_first": then}, told=told)]

    def _of_validation(self, score: float) -> list[Alarm]:
        means = {name: mean for name in _PAID if (mean := self._now(name)) is not None}
        if self._best is None or score > self._best.score:
            self._best = _Validation(score, means)
            return []
        most = self._settings.max_score_drop
        if not most or self._best.score - score <= most:
            return []
        fell = f"the validation score fell from {self._best.score:.3f} to {score:.3f}"
        saw = {"score": score, "best_score": self._best.score}
        found: list[Alarm] = []
        for name, (guard, words) in _PAID.items():
            then = self._best.means.get(name, self._then(name))
            if then is not None and name in means and means[name] > _RISE * then + _MARGIN:
                told = f"{fell} while {words} rose from {then:.3f} to {means[name]:.3f}"
                if all(one.guard != guard for one in found):
                    found.append(Alarm(guard=guard, saw=saw | {name: means[name], f"best_{name}": then}, told=told))
        return found


@dataclass(frozen=True, slots=True)
class _Validation:
    """A score, and means over the steps before it; of the untrained model there are none."""

    score: float
    means: Mapping[str, float]


_PAID: Mapping[str, tuple[GuardName, str]] = {
    "reward": ("gaming", "the reward"),
    "boxes_per_answer": ("boxes", "the boxes of an answer"),
    "duplicate_frac": ("boxes", "the share of boxes that repeat another"),
}
_WATCHED = ("kl", "completion_tokens", "entropy", "unreadable_frac", "truncated_frac", *_PAID)


def _is_of_training(record: Mapping[str, float]) -> bool:
    return any(not name.startswith("validation_") for name in record if name != "step")


def is_finite(module: nn.Module) -> bool:
    """Whether every trained weight that this process has is a finite number."""
    trained = (local_shard(parameter) for parameter in module.parameters() if parameter.requires_grad)
    flags = [one.isfinite().all() for one in trained]
    return not flags or bool(torch.stack(flags).all())  # one wait for the device, not one a parameter


def all_finite(values: Sequence[float]) -> bool:
    """Whether all are finite numbers."""
    return all(math.isfinite(value) for value in values)
