"""Collapse of a model's answers: the fraction of images that get the same answer, whatever they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from virft.geometry.boxes import XYXY, intersection_over_union
from virft.tasks import TASKS
from virft.types import Answer, Sample, Unreadable

COMMON_ANSWER, COMMON_TARGET = "common_answer_frac", "common_target_frac"
"""Metrics of ``common_answer_metrics``."""
SAME_IOU = 0.9
"""Two boxes are the same if their IoU, in fractions of width and height of their images, is at least this."""
FEWEST_IMAGES, MOST_IMAGES = 4, 200
"""Fewer images say nothing; more take time that grows with their square."""


class _Described(NamedTuple):
    """An answer, or a target, as it is compared: boxes in fractions of the image, or else its text."""

    task: str
    boxes: tuple[XYXY, ...]
    text: str

    def is_same(self, other: _Described) -> bool:
        return (
            self.task == other.task
            and self.text == other.text
            and len(self.boxes) == len(other.boxes)
            and all(intersection_over_union(a, b) >= SAME_IOU for a, b in zip(self.boxes, other.boxes, strict=True))
        )


def common_answer_metrics(answered: Sequence[tuple[Sample, Answer]]) -> dict[str, float]:
    """Return the fraction of images with the most common answer, and with the most common target; {} for few images.

    Each image counts once, with its first question, and at most ``MOST_IMAGES`` images count. An unreadable answer is
    the same as no other. A model that ignores the images has a fraction near 1, whatever that of the targets is.

    >>> from virft.types import Box, Detections, Detection, ImageSize
    >>> def boxes(*corners):
    ...     return Detections(items=tuple(Detection(box=Box(x1=a, y1=b, x2=c, y2=d)) for a, b, c, d in corners))
    >>> def at(i):
    ...     return Sample(id=f"{i}", task="detection", images=(f"{i}.png",), image_sizes=(ImageSize(100, 100),),
    ...                   query="fox", target=boxes((20 * i, 0, 20 * i + 20, 20)))
    >>> common_answer_metrics([(at(i), boxes((10, 10, 90, 90))) for i in range(4)])
    {'common_answer_frac': 1.0, 'common_target_frac': 0.25}
    """
    by_image: dict[str, tuple[Sample, Answer]] = {}
    for sample, answer in answered:
        by_image.setdefault(sample.images[sample.target_image], (sample, answer))
    chosen = list(by_image.values())[:MOST_IMAGES]
    if len(chosen) < FEWEST_IMAGES:
        return {}
    return {
        COMMON_ANSWER: _largest_fraction([_describe(sample, answer) for sample, answer in chosen]),
        COMMON_TARGET: _largest_fraction([_describe(sample, sample.target) for sample, _ in chosen]),
    }


def _largest_fraction(found: Sequence[_Described | None]) -> float:
    counts = [sum(other is not None and one.is_same(other) for other in found) for one in found if one is not None]
    return max(counts, default=0) / len(found)


def _describe(sample: Sample, answer: Answer) -> _Described | None:
    if isinstance(answer, Unreadable):
        return None
    task = TASKS[sample.task]
    if task.boxes is None:
        return _Described(sample.task, (), task.describe_answer(answer).casefold())
    width, height = sample.target_size
    boxes = [one.box.xyxy for one in task.answer_boxes(answer)]
    return _Described(sample.task, tuple((a / width, b / height, c / width, d / height) for a, b, c, d in boxes), "")
