"""Features that decide between SFT and RFT, from completions of the base model and the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virft.metrics.bootstrap import ratio_statistic, resample
from virft.recipes.advice.completions import SampledGroup, class_name
from virft.tasks import TASKS
from virft.training.grpo.advantages import has_nonzero_std
from virft.types import Sample, Unreadable

SOLVED_SCORE = 0.5
"""A completion is correct from this ``Task.score`` on: F1 of the question, IoU, or 1 for the correct name or number."""
FOLDS = 4
"""The blind baselines of an image are fitted on the images of the other folds (cross-fitting)."""
MAX_BLIND_SAMPLES = 2000
"""Number of training samples that blind baselines are fitted on at most, evenly spaced."""


class Estimate(NamedTuple):
    """A mean over the evaluated samples with its 95 % bootstrap confidence interval, resampling images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class ClassScore(NamedTuple):
    """Score of the base model on the evaluated samples that show a class."""

    name: str
    score: float
    """Mean score of the completions."""
    blind: float
    """Mean score of the best blind baseline on the same samples."""
    num_samples: int

    @property
    def knowledge(self) -> float:
        """The score above the blind baseline, as ``Features.knowledge``."""
        return (self.score - self.blind) / (1 - self.blind) if self.blind < 1 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Facts about a base model on training data. Fractions are in [0, 1]."""

    task: str
    """Task of most samples."""
    num_samples: int
    """Samples of the dataset."""
    num_images: int
    """Images of the dataset."""
    num_evaluated: int
    """Samples with completions."""
    group_size: int
    """Completions of a sample."""
    images_per_class: float | None
    """Median number of images that show a class; None without classes."""
    fewest_images: tuple[str, int] | None
    """The class with the fewest images, and their number; None without classes."""
    num_classes: int
    """Classes of the dataset; 0 if the task has none."""
    num_demonstrable: int
    """Samples whose target can be a demonstration: with thinking, those that have a rationale."""
    blind_name: str
    """The best blind baseline, such as "mean box"."""
    estimates: Mapping[str, Estimate]
    """Name of ``FEATURES`` -> its estimate."""
    resamples: Mapping[str, NDArray[np.float64]]
    """Name -> values over bootstrap resamples of the images, [resamples]; empty with a single image."""
    classes: tuple[ClassScore, ...]
    """Evaluated classes, the least known first."""
    tokens: int
    """Tokens of all prompts (once each) and completions."""
    seconds: float
    """Time that sampling took."""

    def value(self, name: str) -> float:
        """Return the estimate of a feature without its interval."""
        return self.estimates[name].value


FEATURES: Mapping[str, str] = {
    "pass_rate": "fraction of completions with a score of at least 0.5",
    "always_solved": "fraction of samples of which every completion is correct",
    "never_solved": "fraction of samples of which no completion is correct",
    "nonzero_std": "fraction of groups with a non-zero reward standard deviation: RFT learns from these",
    "readable": "fraction of completions with a parsable answer",
    "well_formed": "fraction of completions in exactly the requested format",
    "truncated": "fraction of completions cut at the token limit",
    "score": "mean score: F1 of the question, IoU or accuracy",
    "blind_score": "the same of the best blind baseline, an answer that ignores the image",
    "knowledge": "(score - blind score) / (1 - blind score), on samples that show their class",
}
"""Name of a feature -> its definition."""


class _Row(NamedTuple):
    """One evaluated sample as numbers."""

    sample: Sample
    score: float
    blind: Mapping[str, float]
    """Blind baseline -> its score."""
    shows_class: bool
    """False for a question about an absent class: its answer does not need the name."""
    parts: Mapping[str, tuple[float, float]]
    """Feature -> (numerator, denominator)."""


def measure_features(groups: Sequence[SampledGroup], samples: Sequence[Sample], *, thinking: bool = False) -> Features:
    """Return the features of sampled groups, at least one. ``samples``: the whole dataset, for counts and baselines.

    ``thinking``: the prompts request reasoning.
    """
    blind = _blind_scores([one.sample for one in groups], samples)
    rows = [_row(one, scores) for one, scores in zip(groups, blind, strict=True)]
    shown = [row for row in rows if row.shows_class]
    every, known = _best_blind(rows), _best_blind(shown)
    parts = [
        {
            **row.parts,
            "blind_score": (row.blind.get(every, 0.0), 1.0),
            "knowledge": (row.score - row.blind.get(known, 0.0), 1 - row.blind.get(known, 0.0))
            if row.shows_class
            else (0.0, 0.0),
        }
        for row in rows
    ]
    estimates, resamples = _estimate(rows, parts)
    images = images_by_class(samples)
    fewest = min(images, key=lambda name: (images[name], name)) if images else None
    return Features(
        task=Counter(sample.task for sample in samples).most_common(1)[0][0],
        num_samples=len(samples),
        num_images=len({_image(sample) for sample in samples}),
        num_evaluated=len(groups),
        group_size=len(groups[0].readings),
        images_per_class=float(median(images.values())) if images else None,
        fewest_images=(fewest, images[fewest]) if fewest is not None else None,
        num_classes=len(images),
        num_demonstrable=sum(not thinking or sample.rationale is not None for sample in samples),
        blind_name=every,
        estimates=estimates,
        resamples=resamples,
        classes=_class_scores(shown, known),
        tokens=sum(one.group.num_tokens for one in groups),
        seconds=sum(one.group.seconds for one in groups),
    )


def images_by_class(samples: Sequence[Sample]) -> dict[str, int]:
    """Return the number of images that show each class; empty for tasks without classes."""
    images: dict[str, set[str]] = {}
    for sample in samples:
        if (name := class_name(sample)) is not None and _shows_class(sample):
            images.setdefault(name, set()).add(_image(sample))
    return {name: len(found) for name, found in sorted(images.items())}


def _row(one: SampledGroup, blind: Mapping[str, float]) -> _Row:
    completions = one.group.completions
    number = float(len(completions))
    num_correct = sum(completion.score >= SOLVED_SCORE for completion in completions)
    score = one.group.mean_score
    return _Row(
        sample=one.sample,
        score=score,
        blind=blind,
        shows_class=_shows_class(one.sample),
        parts={
            "pass_rate": (num_correct, number),
            "always_solved": (float(num_correct == len(completions)), 1.0),
            "never_solved": (float(num_correct == 0), 1.0),
            "nonzero_std": (float(has_nonzero_std([each.reward for each in completions])), 1.0),
            "readable": (sum(not isinstance(reading.answer, Unreadable) for reading in one.readings), number),
            "well_formed": (sum(each.well_formed for each in completions), number),
            "truncated": (sum(each.truncated for each in completions), number),
            "score": (score, 1.0),
        },
    )


def _estimate(
    rows: Sequence[_Row], parts: Sequence[Mapping[str, tuple[float, float]]]
) -> tuple[dict[str, Estimate], dict[str, NDArray[np.float64]]]:
    """Ratios of sums over images, and their bootstrap; ``parts`` of each row."""
    images = list(dict.fromkeys(_image(row.sample) for row in rows))
    place = {image: i for i, image in enumerate(images)}
    ratios: dict[str, tuple[list[float], list[float]]] = {}
    for name in FEATURES:
        numerators, denominators = [0.0] * len(images), [0.0] * len(images)
        for row, part in zip(rows, parts, strict=True):
            numerators[place[_image(row.sample)]] += part[name][0]
            denominators[place[_image(row.sample)]] += part[name][1]
        ratios[name] = (numerators, denominators)
    statistic = ratio_statistic(ratios)
    values = statistic(np.ones(len(images)))
    found = resample([statistic], images)
    # a single image has no interval: everything is possible
    intervals = found.intervals() if found.values else dict.fromkeys(values, (0.0, 1.0))
    return {name: Estimate(value, *intervals[name]) for name, value in values.items()}, dict(found.values)


def _class_scores(rows: Sequence[_Row], blind: str) -> tuple[ClassScore, ...]:
    by_class: dict[str, list[_Row]] = {}
    for row in rows:
        if (name := class_name(row.sample)) is not None:
            by_class.setdefault(name, []).append(row)
    found = [
        ClassScore(name, fmean(row.score for row in own), fmean(row.blind.get(blind, 0.0) for row in own), len(own))
        for name, own in by_class.items()
    ]
    return tuple(sorted(found, key=lambda one: (one.knowledge, one.name)))


# --- blind baselines ---


def _blind_scores(evaluated: Sequence[Sample], samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Scores of the blind baselines of each evaluated sample, fitted on images of the other folds."""
    fold_of = {image: i % FOLDS for i, image in enumerate(sorted({_image(sample) for sample in samples}))}
    step = max(1, len(samples) // MAX_BLIND_SAMPLES)
    used = samples[::step]
    answers: dict[tuple[str, int], Mapping[str, Callable[[Sample], object]]] = {}
    found = []
    for sample in evaluated:
        task, fold = TASKS[sample.task], fold_of[_image(sample)]
        if (sample.task, fold) not in answers:
            others = [one for one in used if one.task == sample.task and fold_of[_image(one)] != fold]
            answers[sample.task, fold] = task.blind_answers(others)
        found.append(
            {
                name: task.score_answer(answer(sample), sample.target)
                for name, answer in answers[sample.task, fold].items()
            }
        )
    return found


def _best_blind(rows: Sequence[_Row]) -> str:
    """The blind baseline with the best mean score, "" if there is none; a sample without it counts 0."""
    names = sorted({name for row in rows for name in row.blind})
    return max(names, key=lambda name: fmean(row.blind.get(name, 0.0) for row in rows), default="")


def _shows_class(sample: Sample) -> bool:
    absent = TASKS[sample.task].absent
    return absent is None or sample.target != absent


def _image(sample: Sample) -> str:
    return sample.images[sample.target_image]
