"""Questions of grounding and detection whose objects have masks, and simulated segmenters that know these masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factories import box, sample, save_image
from virft.data.augmentation import original_box
from virft.data.segmented import compare_masks
from virft.geometry.masks import Mask, box_to_mask, object_mask
from virft.tasks.grader import SegmentBoxes
from virft.types import (
    Box,
    BoxPair,
    Detection,
    Detections,
    ImageSize,
    LabelledDetections,
    Polygon,
    Sample,
    SegmentedBox,
)

SIZE = ImageSize(100, 100)


def masked(x1: float, y1: float, x2: float, y2: float, *, id: str = "m", image: str = "images/a.png") -> Sample:
    """A question about 100 x 100 pixels. The mask is the triangle at the top right of its box: half of it."""
    return sample(
        box(x1, y1, x2, y2),
        id=id,
        task="grounding",
        image=image,
        size=SIZE,
        query="the sail",
        polygons=(sail_of((x1, y1, x2, y2)),),
    )


def sail_of(corners: tuple[float, float, float, float]) -> Polygon:
    """The triangle at the top right of a box."""
    x1, y1, x2, y2 = corners
    return (x1, y1, x2, y1, x2, y2)


def sails(
    *corners: tuple[float, float, float, float], task: str = "detection", id: str = "s", image: str = "images/a.png"
) -> Sample:
    """A question about all sails (of several classes: also boats) on 100 x 100 pixels, with the mask of each."""
    items = tuple(
        Detection(box=box(*one), label=None if task == "detection" else ("sail", "boat")[place % 2])
        for place, one in enumerate(corners)
    )
    target = (
        Detections(items=items) if task == "detection" else LabelledDetections(items=items, classes=("sail", "boat"))
    )
    return sample(
        target,
        id=id,
        task=task,
        image=image,
        size=SIZE,
        query="sail",
        outlines=tuple((sail_of(one),) for one in corners),
    )


def save_masked_image(folder: Path) -> str:
    return str(save_image(folder / "a.png", SIZE))


def _box_mask(sample: Sample, found: Box) -> Mask:
    """The filled box on the original image."""
    view, size = sample.augmentation, sample.target_size
    return box_to_mask(found if view is None else original_box(view, found, size), size)


def segment_inside(sample: Sample, pairs: Sequence[BoxPair]) -> list[SegmentedBox]:
    """A careful segmenter: the part of the object's true mask inside each box."""
    inside = [object_mask(sample, one.target) & _box_mask(sample, one.box) for one in pairs]
    return compare_masks(sample, pairs, inside)


def segment_salient(sample: Sample, pairs: Sequence[BoxPair]) -> list[SegmentedBox]:
    """The segmenter that is easiest to exploit: the true mask for any box that touches it."""

    def found(one: BoxPair) -> Mask:
        whole = object_mask(sample, one.target)
        return whole if (whole & _box_mask(sample, one.box)).any() else whole & False

    return compare_masks(sample, pairs, [found(one) for one in pairs])


SEGMENTERS: dict[str, SegmentBoxes] = {"inside": segment_inside, "salient": segment_salient}
