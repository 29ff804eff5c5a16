"""Headline metrics of each task, as statistics that the bootstrap evaluates on resampled images."""

from __future__ import annotations

from collections.abc import Sequence

from virft.evaluation.box_questions import box_questions, confidences
from virft.evaluation.joined import JoinedPrediction
from virft.metrics.bootstrap import Statistic, ap_statistic, ratio_statistic
from virft.tasks import TASKS
from virft.types import Reading, Target, TaskName

HEADLINE = {TaskName.DETECTION: "f1", TaskName.CLASSIFICATION: "accuracy", TaskName.GROUNDING: "box_miou"}
"""The headline metric of each task."""

MEANS = {TaskName.CLASSIFICATION: ("accuracy",), TaskName.GROUNDING: ("box_miou", "accuracy_at_50")}
"""Headline metrics that are means over questions."""


def images_of(joined: Sequence[JoinedPrediction]) -> list[str]:
    """Return every image once, in the order of the questions."""
    return list(dict.fromkeys(one.image for one in joined))


def headline_statistics(name: TaskName, joined: Sequence[JoinedPrediction], images: Sequence[str]) -> list[Statistic]:
    """Return the task's headline metrics as functions of the number of times that each image is drawn.

    Detection: precision, recall, f1, and COCO's ap and ap50, also for LVIS datasets (without LVIS's limit of boxes per
    image).
    """
    by_image: dict[str, list[JoinedPrediction]] = {image: [] for image in images}
    for one in joined:
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
    return [ratio_statistic(ratios), ap_statistic(box_questions(joined, confidences), images=images)]


def scored_pairs(joined: Sequence[JoinedPrediction]) -> list[tuple[Reading, Target]]:
    """Return reading and target of each exhaustively annotated question.

    If some objects are not annotated, only average precision has a rule for additional boxes.
    """
    return [(one.reading, one.sample.target) for one in joined if one.sample.exhaustive]
