"""The numbers that say how good a model is, as they would be over resampled images."""

from __future__ import annotations

from collections.abc import Sequence

from virft.evaluation.box_questions import box_questions, confidences
from virft.evaluation.joined import Answered
from virft.metrics.bootstrap import Statistic, ap_statistic, ratio_statistic
from virft.tasks import TASKS
from virft.types import Reading, Target, TaskName

HEADLINE = {TaskName.DETECTION: "f1", TaskName.CLASSIFICATION: "accuracy", TaskName.GROUNDING: "box_miou"}
"""The one number of each task that says how good a model is."""

MEANS = {TaskName.CLASSIFICATION: ("accuracy",), TaskName.GROUNDING: ("box_miou", "accuracy_at_50")}
"""Headline numbers that are means over questions."""


def images_of(answered: Sequence[Answered]) -> list[str]:
    """Every image once, in the order of the questions."""
    return list(dict.fromkeys(one.image for one in answered))


def headline_statistics(name: TaskName, answered: Sequence[Answered], images: Sequence[str]) -> list[Statistic]:
    """The task's headline numbers as functions of how often each of ``images`` is drawn.

    Detection: precision, recall, f1, ap and ap50 (COCO's; of an LVIS set too, whose limits an image play no part).
    """
    by_image: dict[str, list[Answered]] = {image: [] for image in images}
    for one in answered:
        by_image[one.image].append(one)
    measured = [TASKS[name].measure(scored_pairs(held)) for held in by_image.values()]
    if name is not TaskName.DETECTION:
        sizes = [one.counts["num_questions"] for one in measured]
        means = {
            key: ([one.values[key] * size for one, size in zip(measured, sizes, strict=True)], sizes)
            for key in MEANS[name]
        }
        return [ratio_statistic(means)]
    counts = [one.counts for one in measured]
    hits = [one["num_hits"] for one in counts]
    boxes, targets = [one["num_boxes"] for one in counts], [one["num_targets"] for one in counts]
    ratios = {
        "precision": (hits, boxes),
        "recall": (hits, targets),
        "f1": ([2 * hit for hit in hits], [box + target for box, target in zip(boxes, targets, strict=True)]),
    }
    return [ratio_statistic(ratios), ap_statistic(box_questions(answered, confidences), images=images)]


def scored_pairs(answered: Sequence[Answered]) -> list[tuple[Reading, Target]]:
    """Reading and target of each question; those where some objects are not marked are left to AP, which has a rule."""
    return [(one.reading, one.sample.target) for one in answered if one.sample.exhaustive]
