"""Boxes of answers made into masks, and how near these come to the targets'."""

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
"""The name of the masks that are the boxes themselves."""

Segmenter = Callable[[Image.Image, Sequence[Box]], Sequence[Mask]]
"""An upright picture and boxes in its pixels to a mask of its size for each box."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskMaker:
    """How boxes become masks; ``name`` stands behind every number.

    ``segment`` None: the box itself, filled. ``progress`` is told how many questions have their mask, and of how many.
    """

    name: str = BOX
    segment: Segmenter | None = None
    progress: Callable[[int, int], None] | None = None


class MaskScores(NamedTuple):
    """Numbers, what they rest on, and their intervals, by name."""

    values: Mapping[str, float]
    counts: Mapping[str, int]
    intervals: Mapping[str, tuple[float, float]]


def require_masks(store: Store) -> None:
    """``DataError`` unless a grounding question of the set has a mask."""
    asked = [sample for sample in store if TASKS[sample.task].has_masks]
    if not any(_has_mask(sample) for sample in asked):
        found = f"none of its {len(asked)} grounding questions has a mask" if asked else "has no grounding question"
        raise DataError(
            f"{store.folder}: {found}; expected polygons or rle in a target of samples.jsonl, or no --masks"
        )


def mask_scores(
    answered: Sequence[tuple[Sample, Reading]], maker: MaskMaker, *, with_intervals: bool = False
) -> MaskScores:
    """``giou`` and ``ciou`` over the questions whose target has a mask, named after the maker; ``num_with_mask``.

    An unreadable answer is an empty mask. Each picture is opened once and segmented once, for all its boxes.
    """
    by_image: dict[str, list[tuple[Sample, Reading]]] = {}
    for sample, reading in answered:
        if _has_mask(sample):
            by_image.setdefault(sample.images[sample.target_image], []).append((sample, reading))
    num_done, total = 0, sum(map(len, by_image.values()))
    overlaps: list[list[MaskOverlap]] = []
    for asked in by_image.values():
        overlaps.append(_overlaps(asked, maker.segment))
        num_done += len(asked)
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


def _has_mask(sample: Sample) -> bool:
    return bool(sample.polygons) or sample.rle is not None


def _overlaps(asked: Sequence[tuple[Sample, Reading]], segment: Segmenter | None) -> list[MaskOverlap]:
    """Of the questions about one image."""
    first = asked[0][0]
    boxes = list(dict.fromkeys(reading.answer for _, reading in asked if isinstance(reading.answer, Box)))
    if segment is None or not boxes:
        masks = [box_to_mask(box, first.target_size) for box in boxes]
    else:
        masks = list(segment(load_image(first.images[first.target_image], sample_id=first.id), boxes))
    found = []
    for sample, reading in asked:
        target = target_mask(sample)
        assert target is not None
        answer = masks[boxes.index(reading.answer)] if isinstance(reading.answer, Box) else target & False
        found.append(mask_overlap(answer, target, ignored_mask(sample)))
    return found


def _ratios(overlaps: Sequence[Sequence[MaskOverlap]]) -> dict[str, tuple[list[float], list[float]]]:
    """Parts and wholes of every image: a mean over questions, and a ratio of sums."""
    return {
        "giou": ([sum(one.iou for one in found) for found in overlaps], [len(found) for found in overlaps]),
        "ciou": (
            [sum(one.intersection for one in found) for found in overlaps],
            [sum(one.union for one in found) for found in overlaps],
        ),
    }
