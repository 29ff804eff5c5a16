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
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.joined import read_answered
from virft.evaluation.predictions import PredictionsCard
from virft.metrics.bootstrap import Resampled, difference_intervals, resample


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

    task: str
    num_images: int
    differences: Mapping[str, Difference]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The headline numbers of one predictions file by task, as they are and over resamples of the images."""

    path: Path
    card: PredictionsCard
    sample_ids: frozenset[str]
    values: Mapping[str, Mapping[str, float]]
    resampled: Mapping[str, Resampled]


def measure(path: Path, store: Store) -> Measured:
    """Read the answers to a data set again and measure them."""
    answered = read_answered(path, store)
    values, resampled = {}, {}
    for task, held in answered.by_task.items():
        images = images_of(held)
        statistics = headline_statistics(task, held, images)
        once = np.ones(len(images))
        values[task] = {name: value for one in statistics for name, value in one(once).items()}
        resampled[task] = resample(statistics, images)
    return Measured(
        path=path,
        card=answered.card,
        sample_ids=frozenset(one.sample.id for held in answered.by_task.values() for one in held),
        values=values,
        resampled=resampled,
    )


def compare(first: Sequence[Measured], second: Sequence[Measured]) -> tuple[Comparison, ...]:
    """Two systems, each by one or several seeds, task by task. ``DataError`` where they answered other questions."""
    everything = [*first, *second]
    for one in everything[1:]:
        if one.sample_ids != everything[0].sample_ids:
            raise DataError(
                f"{one.path}: answers other questions than {everything[0].path} ({len(one.sample_ids)} and "
                f"{len(everything[0].sample_ids)}); expected both systems to be asked the same"
            )
    warnings = asked_differently({str(one.path): one.card for one in everything})
    return tuple(
        Comparison(
            task=task,
            num_images=len(everything[0].resampled[task].images),
            differences=_differences(task, first, second),
            warnings=warnings,
        )
        for task in everything[0].values
    )


def _differences(task: str, first: Sequence[Measured], second: Sequence[Measured]) -> dict[str, Difference]:
    between = difference_intervals([one.resampled[task] for one in first], [one.resampled[task] for one in second])
    found = {}
    for name in first[0].values[task]:
        before, after = (_system_value([one.values[task][name] for one in held]) for held in (first, second))
        found[name] = Difference(first=before, second=after, value=after.mean - before.mean, interval=between.get(name))
    return found


def _system_value(numbers: Sequence[float]) -> SystemValue:
    return SystemValue(mean=fmean(numbers), low=min(numbers), high=max(numbers), num_seeds=len(numbers))


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


def _facts(card: PredictionsCard) -> dict[str, Any]:
    """How answers were got, but for what is meant to differ: the model, and the commit of the program."""
    settings = {name: value for name, value in card.settings.items() if name != "commit"}
    return {"thinking": card.thinking, "data_hash": card.data_hash, **settings}


def _told(value: SystemValue) -> str:
    many = f" [{value.low:.3f}, {value.high:.3f}]" if value.num_seeds > 1 else ""
    return f"{value.mean:.3f}{many}"
