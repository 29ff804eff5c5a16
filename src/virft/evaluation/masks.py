"""Convert predicted boxes to masks and score them against the targets' masks (gIoU, cIoU)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from virft.data.images import load_image
from virft.data.store import Store
from virft.errors import DataError
from virft.geometry.masks import Mask, box_to_mask, ignored_mask, target_mask
from virft.metrics.bootstrap import ratio_statistic, resample
from virft.metrics.masks import MaskOverlap, mask_metrics, mask_overlap
from virft.tasks import TASKS
from virft.types import Box, Reading, Sample

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


class MaskScores(NamedTuple):
    """Metrics, counts and confidence intervals by name."""

    values: Mapping[str, float]
    counts: Mapping[str, int]
    intervals: Mapping[str, tuple[float, float]]


def require_masks(store: Store) -> None:
    """Raise ``DataError`` unless a grounding question of the dataset has a mask."""
    questions = [sample for sample in store if TASKS[sample.task].has_masks]
    if not any(sample.has_mask for sample in questions):
        number = len(questions)
        few = {0: "has no grounding question", 1: "its only grounding question has no mask"}
        found = few.get(number, f"none of its {number} grounding questions has a mask")
        raise DataError(
            f"{store.folder}: {found}; expected polygons or rle in a target of samples.jsonl, or no --masks"
        )


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
    num_done, total = 0, sum(map(len, by_image.values()))
    overlaps: list[list[MaskOverlap]] = []
    for same_image in by_image.values():
        overlaps.append(_overlaps(same_image, maker.segment))
        num_done += len(same_image)
        if maker.progress is not None:
            maker.progress(num_done, total)
    measured = mask_metrics([one for found in overlaps for one in found])
    statistics = [ratio_statistic(_ratios(overlaps))] if with_intervals else []
    between = resample(statistics, list(by_image)).intervals()
    return MaskScores(
        values={f"{name} (masks: {maker.name})": value for name, value in measured.values.items()},
        counts=measured.counts,
        intervals={f"{name} (masks: {maker.name})": ends for name, ends in between.items()},
    )


def _overlaps(pairs: Sequence[tuple[Sample, Reading]], segment: Segmenter | None) -> list[MaskOverlap]:
    """Return the mask overlap of each question about one image."""
    first = pairs[0][0]
    boxes = list(dict.fromkeys(reading.answer for _, reading in pairs if isinstance(reading.answer, Box)))
    if segment is None or not boxes:
        masks = [box_to_mask(box, first.target_size) for box in boxes]
    else:
        masks = list(segment(load_image(first.images[first.target_image], sample_id=first.id), boxes))
    found = []
    for sample, reading in pairs:
        target = target_mask(sample)
        assert target is not None
        answer = masks[boxes.index(reading.answer)] if isinstance(reading.answer, Box) else target & False
        found.append(mask_overlap(answer, target, ignored_mask(sample)))
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
