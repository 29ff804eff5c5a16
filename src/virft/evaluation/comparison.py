"""Compare two systems on one dataset: differences of headline metrics with paired-bootstrap confidence intervals.

Both systems are evaluated on the same resampled images, so the difficulty of an image cancels in the difference. A
system trained with several seeds is represented by their mean: three seeds are too few to estimate a variance, images
are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from virft.config.wording import counted
from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.joined import JoinedPredictions, join_predictions
from virft.evaluation.predictions import DTYPE, ENGINE, IN_4BIT, PredictionsCard
from virft.metrics.bootstrap import Resampled, Statistic, difference_intervals, resample
from virft.types import JoinedPrediction


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemValue:
    """One metric of a system: its mean, minimum and maximum over seeds."""

    mean: float
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDifference:
    """``second`` minus ``first``. ``interval``: 95 % confidence interval; None with a single image."""

    first: SystemValue
    second: SystemValue
    value: float
    interval: tuple[float, float] | None

    @property
    def is_clear(self) -> bool:
        """True if the confidence interval excludes 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Differences by metric, on the questions of one task. ``warnings``: settings in which the predictions differ."""

    task: str
    num_images: int
    differences: Mapping[str, ScoreDifference]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The headline metrics of one predictions file by task: values, and bootstrap resamples of the images."""

    path: Path
    card: PredictionsCard
    sample_ids: frozenset[str]
    values: Mapping[str, Mapping[str, float]]
    resampled: Mapping[str, Resampled]


def measure(path: Path, store: Store) -> Measured:
    """Parse the predictions on a dataset and compute the headline metrics."""
    return measure_joined(path, join_predictions(path, store))


def measure_values(path: Path, store: Store) -> dict[str, dict[str, float]]:
    """Task -> headline metrics of the predictions on a dataset, without resamples."""
    return {task: _headline_values(task, found) for task, found in join_predictions(path, store).by_task.items()}


def measure_joined(path: Path, joined: JoinedPredictions) -> Measured:
    """Compute the headline metrics of predictions that are joined with their samples already."""
    values, resampled = {}, {}
    for task, found in joined.by_task.items():
        images = images_of(found)
        statistics = headline_statistics(task, found, images)
        values[task] = _values_of(statistics, len(images))
        resampled[task] = resample(statistics, images)
    return Measured(
        path=path,
        card=joined.card,
        sample_ids=frozenset(one.sample.id for found in joined.by_task.values() for one in found),
        values=values,
        resampled=resampled,
    )


def _headline_values(task: str, found: Sequence[JoinedPrediction]) -> dict[str, float]:
    images = images_of(found)
    return _values_of(headline_statistics(task, found, images), len(images))


def _values_of(statistics: Sequence[Statistic], num_images: int) -> dict[str, float]:
    """The metrics with each image counted once."""
    once = np.ones(num_images)
    return {name: value for one in statistics for name, value in one(once).items()}


def compare_systems(first: Sequence[Measured], second: Sequence[Measured]) -> tuple[Comparison, ...]:
    """Compare two systems, each given by one or several seeds, for each task.

    ``DataError``: the systems have predictions for different questions.
    """
    everything = [*first, *second]
    for one in everything[1:]:
        if one.sample_ids != everything[0].sample_ids:
            raise DataError(
                f"{one.path}: has predictions for other questions than {everything[0].path} ({len(one.sample_ids)} and "
                f"{len(everything[0].sample_ids)}); expected the same questions for both systems"
            )
    warnings = describe_setting_differences({str(one.path): one.card for one in everything})
    return tuple(
        Comparison(
            task=task,
            num_images=len(everything[0].resampled[task].images),
            differences=_differences(task, first, second),
            warnings=warnings,
        )
        for task in everything[0].values
    )


def _differences(task: str, first: Sequence[Measured], second: Sequence[Measured]) -> dict[str, ScoreDifference]:
    between = difference_intervals([one.resampled[task] for one in first], [one.resampled[task] for one in second])
    found = {}
    for name in first[0].values[task]:
        before, after = (system_value([one.values[task][name] for one in held]) for held in (first, second))
        found[name] = ScoreDifference(
            first=before, second=after, value=after.mean - before.mean, interval=between.get(name)
        )
    return found


def system_value(numbers: Sequence[float]) -> SystemValue:
    """Return mean and range of a metric over seeds."""
    return SystemValue(mean=fmean(numbers), low=min(numbers), high=max(numbers), num_seeds=len(numbers))


def describe_setting_differences(cards: Mapping[str, PredictionsCard]) -> tuple[str, ...]:
    """Return a sentence for each setting that differs between predictions, so that metrics may not be comparable."""
    found = []
    facts = {name: _facts(card) for name, card in cards.items()}
    for fact in sorted({key for held in facts.values() for key in held}):
        values = {name: held.get(fact) for name, held in facts.items()}
        if len(set(map(repr, values.values()))) > 1:
            listed = ", ".join(f"{value!r} ({name})" for name, value in values.items())
            found.append(f"{fact} differs: {listed}")
    return tuple(found)


def comparisons_to_text(comparisons: Sequence[Comparison], *, first: str, second: str) -> str:
    """Format a table for each task, warnings first."""
    lines = [f"warning: {text}" for text in (comparisons[0].warnings if comparisons else ())]
    for one in comparisons:
        lines.append(f"{one.task}, {second} against {first}, {counted(one.num_images, 'image')}")
        for name, found in one.differences.items():
            between = f"  ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})" if found.interval else ""
            before, after = _format_value(found.first), _format_value(found.second)
            lines.append(f"  {name:<20} {before:>22} -> {after:<22} {found.value:+.3f}{between}")
    return "\n".join(lines)


def comparison_tree(one: Comparison) -> dict[str, Any]:
    """Return the comparison as a JSON tree."""

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
    """Return the settings of predictions, without those that may differ: model and commit."""
    settings = {name: value for name, value in card.settings.items() if name != "commit"}
    # also of predictions whose card does not say it
    defaults = {DTYPE: card.dtype, IN_4BIT: card.in_4bit, ENGINE: card.engine}
    return {"thinking": card.thinking, "data_hash": card.data_hash, **settings, **defaults}


def _format_value(value: SystemValue) -> str:
    seed_range = f" [{value.low:.3f}, {value.high:.3f}]" if value.num_seeds > 1 else ""
    return f"{value.mean:.3f}{seed_range}"
