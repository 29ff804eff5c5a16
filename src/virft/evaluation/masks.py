"""Convert predicted boxes to masks and score them against the targets' masks (gIoU, cIoU, average precision)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from PIL import Image

from virft.data.images import load_image
from virft.data.store import Store
from virft.errors import DataError
from virft.geometry.masks import (
    Mask,
    box_to_mask,
    ignored_mask,
    mask_ious,
    mask_to_rle,
    object_mask,
    target_mask,
)
from virft.metrics.average_precision import average_precision
from virft.metrics.bootstrap import Statistic, ap_statistic, ratio_statistic, resample
from virft.metrics.box_matching import BoxQuestion
from virft.metrics.box_questions import box_questions, confidences
from virft.metrics.masks import MaskOverlap, mask_metrics, mask_overlap
from virft.tasks import TASKS
from virft.tasks.task import TaskMasks
from virft.types import Box, Detections, JoinedPrediction, Reading, Sample

BOX = "box"
"""Name of the mask maker that fills the boxes themselves."""

Segmenter = Callable[[Image.Image, Sequence[Box]], Sequence[Mask]]
"""(image, boxes in its pixels) -> one mask per box, of the image's size; the image is upright."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskMaker:
    """A method of converting boxes to masks. ``name``: appended to the name of every metric.

    ``segment`` None: the filled box. ``progress``: called with the number of finished and of all questions.
    """

    name: str = BOX
    segment: Segmenter | None = None
    progress: Callable[[int, int], None] | None = None


_MASK_AP = ("ap", "ap50", "ap75")
_One = TypeVar("_One")
_Found = TypeVar("_Found")


class MaskScores(NamedTuple):
    """Metrics, counts and confidence intervals by name."""

    values: Mapping[str, float]
    counts: Mapping[str, int]
    intervals: Mapping[str, tuple[float, float]]


def require_masks(store: Store) -> None:
    """Raise ``DataError`` unless the target of a question of the dataset has masks."""
    known = [name for name, task in TASKS.items() if task.masks is not None]
    questions = [sample for sample in store if sample.task in known]
    if not any(sample.has_mask for sample in questions):
        number = len(questions)
        few = {0: f"has no question of {', '.join(known)}", 1: "the target of its only question has no mask"}
        found = few.get(number, f"none of the targets of its {number} questions has a mask")
        raise DataError(
            f"{store.folder}: {found}; expected polygons, rle, or the outlines of each object in a target of "
            "samples.jsonl, or no --masks"
        )


def measure_masks(
    joined: Sequence[JoinedPrediction], masks: TaskMasks, maker: MaskMaker, *, with_intervals: bool = False
) -> MaskScores:
    """Return the mask metrics of a task: average precision if its answers are boxes of classes, else gIoU and cIoU."""
    if masks.by_class is not None:
        return mask_average_precision(masks.by_class(joined), maker, with_intervals=with_intervals)
    return mask_scores([(one.sample, one.reading) for one in joined], maker, with_intervals=with_intervals)


def mask_scores(
    pairs: Sequence[tuple[Sample, Reading]], maker: MaskMaker, *, with_intervals: bool = False
) -> MaskScores:
    """Return ``giou`` and ``ciou`` over the questions whose target has a mask, and the count ``num_with_mask``.

    Metric names contain the maker's name. An unreadable answer is an empty mask. Each image is opened and segmented
    once, for all its boxes.
    """
    by_image: dict[str, list[tuple[Sample, Reading]]] = {}
    for sample, reading in pairs:
        if sample.has_mask:
            by_image.setdefault(sample.images[sample.target_image], []).append((sample, reading))
    overlaps = _of_each_image(by_image, maker, _overlaps)
    measured = mask_metrics([one for found in overlaps for one in found])
    statistics = [ratio_statistic(_ratios(overlaps))] if with_intervals else []
    return _named(maker, measured.values, measured.counts, statistics, list(by_image))


def mask_average_precision(
    joined: Sequence[JoinedPrediction], maker: MaskMaker, *, with_intervals: bool = False
) -> MaskScores:
    """Return ``ap``, ``ap50`` and ``ap75`` of masks, and the count ``num_with_mask`` of questions.

    ``joined``: predictions of ``Detections`` about one class each. COCO's average precision with the IoU of masks in
    place of boxes; the mask of a predicted box has the box's confidence. Questions with an object that has no mask are
    excluded; those without objects count. Crowd regions are boxes, which decide as in the AP of boxes. Without any
    object: no values. Each image is opened and segmented once. Source: COCO (arXiv 1405.0312), ``iouType`` "segm".
    """
    by_image: dict[str, list[JoinedPrediction]] = {}
    for one in joined:
        assert isinstance(one.sample.target, Detections)
        if one.sample.has_mask or not one.sample.target.items:
            by_image.setdefault(one.image, []).append(one)
    questions = [one for found in _of_each_image(by_image, maker, _mask_questions) for one in found]
    values = {name: value for name, value in average_precision(questions).values.items() if name in _MASK_AP}
    statistics = [ap_statistic(questions, images=list(by_image))] if with_intervals and values else []
    counts = {"num_with_mask": len({one.sample.id for one in joined if one.sample.has_mask})}
    return _named(maker, values, counts, statistics, list(by_image))


def _named(
    maker: MaskMaker,
    values: Mapping[str, float],
    counts: Mapping[str, int],
    statistics: Sequence[Statistic],
    images: Sequence[str],
) -> MaskScores:
    """Return the metrics with the maker's name in theirs, and the intervals of the statistics."""
    between = resample(statistics, images).intervals()
    return MaskScores(
        values={f"{name} (masks: {maker.name})": value for name, value in values.items()},
        counts=counts,
        intervals={f"{name} (masks: {maker.name})": ends for name, ends in between.items()},
    )


def _of_each_image(
    by_image: Mapping[str, list[_One]], maker: MaskMaker, measure: Callable[[list[_One], Segmenter | None], _Found]
) -> list[_Found]:
    """Return what ``measure`` returns for the questions about each image, with progress."""
    num_done, total = 0, sum(map(len, by_image.values()))
    found = []
    for same_image in by_image.values():
        found.append(measure(same_image, maker.segment))
        num_done += len(same_image)
        if maker.progress is not None:
            maker.progress(num_done, total)
    return found


def _make_masks(sample: Sample, boxes: Sequence[Box], segment: Segmenter | None) -> dict[Box, Mask]:
    """Return the mask of each box on the sample's image, which is opened only if it has to be segmented."""
    if segment is None or not boxes:
        return {box: box_to_mask(box, sample.target_size) for box in boxes}
    different = list(dict.fromkeys(boxes))
    image = load_image(sample.images[sample.target_image], sample_id=sample.id)
    return dict(zip(different, segment(image, different), strict=True))


def _overlaps(pairs: Sequence[tuple[Sample, Reading]], segment: Segmenter | None) -> list[MaskOverlap]:
    """Return the mask overlap of each question about one image."""
    boxes = [reading.answer for _, reading in pairs if isinstance(reading.answer, Box)]
    masks = _make_masks(pairs[0][0], boxes, segment)
    found = []
    for sample, reading in pairs:
        target = target_mask(sample)
        assert target is not None
        answer = masks[reading.answer] if isinstance(reading.answer, Box) else target & False
        found.append(mask_overlap(answer, target, ignored_mask(sample)))
    return found


def _mask_questions(joined: Sequence[JoinedPrediction], segment: Segmenter | None) -> list[BoxQuestion]:
    """Return the questions about one image with the IoU of masks."""
    answers = [one.reading.answer if isinstance(one.reading.answer, Detections) else Detections() for one in joined]
    size = joined[0].sample.target_size
    masks = _make_masks(joined[0].sample, [item.box for answer in answers for item in answer.items], segment)
    encoded = {box: mask_to_rle(mask) for box, mask in masks.items()}
    found = []
    for one, answer in zip(joined, answers, strict=True):
        for question in box_questions([one], confidences):
            targets = [mask_to_rle(object_mask(one.sample, index)) for index in range(len(question.targets))]
            ious = mask_ious([encoded[item.box] for item in answer.items], targets, size)
            found.append(replace(question, ious=ious))
    return found


def _ratios(overlaps: Sequence[Sequence[MaskOverlap]]) -> dict[str, tuple[list[float], list[float]]]:
    """Return numerators and denominators by image: giou is a mean over questions, ciou a ratio of sums."""
    return {
        "giou": ([sum(one.iou for one in found) for found in overlaps], [len(found) for found in overlaps]),
        "ciou": (
            [sum(one.intersection for one in found) for found in overlaps],
            [sum(one.union for one in found) for found in overlaps],
        ),
    }
