"""Headline metrics of each task, as statistics that the bootstrap evaluates on resampled images."""

from __future__ import annotations

from collections.abc import Sequence

from virft.metrics.bootstrap import Statistic, ratio_statistic
from virft.tasks import TASKS
from virft.types import JoinedPrediction, Reading, Target


def images_of(joined: Sequence[JoinedPrediction]) -> list[str]:
    """Return every image once, in the order of the questions."""
    return list(dict.fromkeys(one.image for one in joined))


def headline_statistics(name: str, joined: Sequence[JoinedPrediction], images: Sequence[str]) -> list[Statistic]:
    """Return a task's metrics with confidence intervals, as functions of the number of times each image is drawn."""
    task = TASKS[name]
    additional = task.statistics(joined, images) if task.statistics is not None else []
    return [image_ratios(name, joined, images), *additional]


def image_ratios(name: str, joined: Sequence[JoinedPrediction], images: Sequence[str]) -> Statistic:
    """Return a task's metrics that are ratios of sums over images (``Task.ratios``), such as F1: they are fast."""
    task = TASKS[name]
    by_image: dict[str, list[JoinedPrediction]] = {image: [] for image in images}
    for one in joined:
        by_image[one.image].append(one)
    measured = [task.ratios(task.measure(scored_pairs(held))) for held in by_image.values()]
    ratios = {
        metric: ([one[metric][0] for one in measured], [one[metric][1] for one in measured]) for metric in measured[0]
    }
    return ratio_statistic(ratios)


def scored_pairs(joined: Sequence[JoinedPrediction]) -> list[tuple[Reading, Target]]:
    """Return reading and target of each exhaustively annotated question.

    If some objects are not annotated, only average precision has a rule for additional boxes.
    """
    return [(one.reading, one.sample.target) for one in joined if one.sample.exhaustive]
