"""Two systems on one data set: what differs between their headline numbers, and how sure that is.

The same images are drawn for both (a paired bootstrap), so what makes an image hard for both does not blur the
difference. A system trained with several seeds is the mean over them: three seeds say nothing about chance, images do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.answered import AnsweredSet, read_answered
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.predictions import PredictionsCard
from virft.metrics.bootstrap import Statistic, Weights, intervals
from virft.types import TaskName


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemValue:
    """One number of a system: its mean over seeds, and the lowest and highest of them."""

    mean: float
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """``second`` minus ``first``; ``interval``: 95 % of resamples of the images lie between, None of a single image."""

    first: SystemValue
    second: SystemValue
    value: float
    interval: tuple[float, float] | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Differences by number's name, on the questions of one task, and in what the systems were asked differently."""

    task: TaskName
    num_images: int
    differences: Mapping[str, Difference]
    warnings: tuple[str, ...] = ()


def compare_predictions(first: Sequence[Path], second: Sequence[Path], store: Store) -> tuple[Comparison, ...]:
    """Compare two systems by what they wrote about a data set; a path for each seed.

    ``DataError`` where they did not answer the same questions.
    """
    both = [[read_answered(path, store) for path in paths] for paths in (first, second)]
    everything = [one for held in both for one in held]
    paths = [*first, *second]
    reference = _question_ids(everything[0])
    for path, one in zip(paths, everything, strict=True):
        if _question_ids(one) != reference:
            raise DataError(
                f"{path}: answers other questions than {paths[0]} ({_number(one)} and {_number(everything[0])}); "
                "expected both systems to be asked the same"
            )
    warnings = asked_differently({str(path): one.card for path, one in zip(paths, everything, strict=True)})
    return tuple(_compare(task, both[0], both[1], warnings) for task in everything[0].by_task)


def asked_differently(cards: Mapping[str, PredictionsCard]) -> tuple[str, ...]:
    """A sentence for each thing in which answers were got differently, so that numbers may not compare."""
    found = []
    facts = {name: _facts(card) for name, card in cards.items()}
    for fact in sorted({key for held in facts.values() for key in held}):
        values = {name: held.get(fact) for name, held in facts.items()}
        if len(set(map(repr, values.values()))) > 1:
            told = ", ".join(f"{value!r} ({name})" for name, value in values.items())
            found.append(f"{fact} differs: {told}")
    return tuple(found)


def comparisons_to_text(comparisons: Sequence[Comparison], *, first: str, second: str) -> str:
    """A table for each task, with the warnings first."""
    lines = [f"warning: {text}" for text in (comparisons[0].warnings if comparisons else ())]
    for one in comparisons:
        lines.append(f"{one.task}, {second} against {first}, {one.num_images} images")
        for name, found in one.differences.items():
            between = f"  ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})" if found.interval else ""
            lines.append(
                f"  {name:<20} {_told(found.first):>22} -> {_told(found.second):<22} {found.value:+.3f}{between}"
            )
    return "\n".join(lines)


def comparison_tree(one: Comparison) -> dict[str, Any]:
    """The comparison as JSON."""

    def side(value: SystemValue) -> dict[str, Any]:
        return {
            "mean": round(value.mean, 6),
            "range": [round(value.low, 6), round(value.high, 6)],
            "num_seeds": value.num_seeds,
        }

    return {
        "num_images": one.num_images,
        "warnings": list(one.warnings),
        "differences": {
            name: {
                "first": side(found.first),
                "second": side(found.second),
                "value": round(found.value, 6),
                "interval": None if found.interval is None else [round(end, 6) for end in found.interval],
            }
            for name, found in one.differences.items()
        },
    }


def _compare(
    task: TaskName, first: Sequence[AnsweredSet], second: Sequence[AnsweredSet], warnings: tuple[str, ...]
) -> Comparison:
    images = images_of(first[0].by_task[task])
    statistics = [
        [_together(headline_statistics(task, one.by_task[task], images)) for one in held] for held in (first, second)
    ]
    once = np.ones(len(images))
    values = [[statistic(once) for statistic in held] for held in statistics]

    def difference(weights: Weights) -> dict[str, float]:
        before, after = ([statistic(weights) for statistic in held] for held in statistics)
        return {name: _mean(after, name) - _mean(before, name) for name in before[0]}

    found = intervals(difference, len(images))
    return Comparison(
        task=task,
        num_images=len(images),
        differences={
            name: Difference(
                first=_system_value(values[0], name),
                second=_system_value(values[1], name),
                value=value,
                interval=found.get(name),
            )
            for name, value in difference(once).items()
        },
        warnings=warnings,
    )


def _together(statistics: Sequence[Statistic]) -> Statistic:
    return lambda weights: {name: value for one in statistics for name, value in one(weights).items()}


def _mean(values: Sequence[Mapping[str, float]], name: str) -> float:
    return fmean(one[name] for one in values)


def _system_value(values: Sequence[Mapping[str, float]], name: str) -> SystemValue:
    numbers = [one[name] for one in values]
    return SystemValue(mean=fmean(numbers), low=min(numbers), high=max(numbers), num_seeds=len(numbers))


def _question_ids(answered: AnsweredSet) -> set[str]:
    return {one.sample.id for held in answered.by_task.values() for one in held}


def _number(answered: AnsweredSet) -> int:
    return sum(map(len, answered.by_task.values()))


def _facts(card: PredictionsCard) -> dict[str, Any]:
    """How answers were got, but for what is meant to differ: the model, and the commit of the program."""
    settings = {name: value for name, value in card.settings.items() if name != "commit"}
    return {"thinking": card.thinking, "data_hash": card.data_hash, **settings}


def _told(value: SystemValue) -> str:
    many = f" [{value.low:.3f}, {value.high:.3f}]" if value.num_seeds > 1 else ""
    return f"{value.mean:.3f}{many}"
