"""Grounding questions whose targets have masks, and simulated segmenters that know these masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factories import box, sample, save_image
from virft.data.segmented import compare_masks
from virft.geometry.masks import box_to_mask, target_mask
from virft.tasks.grader import SegmentBoxes
from virft.types import Box, ImageSize, Sample, SegmentedBox

SIZE = ImageSize(100, 100)


def masked(x1: float, y1: float, x2: float, y2: float, *, id: str = "m", image: str = "images/a.png") -> Sample:
    """A question about 100 x 100 pixels. The mask is the triangle at the top right of its box: half of it."""
    triangle = (x1, y1, x2, y1, x2, y2)
    return sample(
        box(x1, y1, x2, y2), id=id, task="grounding", image=image, size=SIZE, query="the sail", polygons=(triangle,)
    )


def save_masked_image(folder: Path) -> str:
    return str(save_image(folder / "a.png", SIZE))


def segment_inside(sample: Sample, boxes: Sequence[Box]) -> list[SegmentedBox]:
    """A careful segmenter: the part of the true mask inside each box."""
    whole = target_mask(sample)
    assert whole is not None
    return compare_masks(sample, [whole & box_to_mask(one, sample.target_size) for one in boxes])


def segment_salient(sample: Sample, boxes: Sequence[Box]) -> list[SegmentedBox]:
    """The segmenter that is easiest to exploit: the true mask for any box that touches it."""
    whole = target_mask(sample)
    assert whole is not None
    touched = [(whole & box_to_mask(one, sample.target_size)).any() for one in boxes]
    return compare_masks(sample, [whole if one else whole & False for one in touched])


SEGMENTERS: dict[str, SegmentBoxes] = {"inside": segment_inside, "salient": segment_salient}
