"""Masks of pixels: made of boxes, outlines and run lengths. The last two are faster-coco-eval's work.

It is imported when the first outline or run length turns up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virft.types import Box, ImageSize, Polygon, Sample

Mask = NDArray[np.bool_]
"""Bool [H, W]."""


def box_to_mask(box: Box, size: ImageSize) -> Mask:
    """The pixels whose centre lies in the box.

    >>> box_to_mask(Box(x1=0.5, y1=0, x2=2.4, y2=1), ImageSize(4, 2)).astype(int)
    array([[1, 1, 0, 0],
           [0, 0, 0, 0]])
    """
    mask = np.zeros((size.height, size.width), dtype=bool)
    x1, y1, x2, y2 = (max(0, math.ceil(value - 0.5)) for value in box.xyxy)
    mask[y1:y2, x1:x2] = True
    return mask


def polygons_to_mask(polygons: Sequence[Polygon], size: ImageSize) -> Mask:
    """What lies in at least one of the outlines; those of none, or outside the image, are empty.

    Source: COCO's rule of which pixels on an outline are inside.

    >>> polygons_to_mask([(1, 0, 3, 0, 3, 2, 1, 2), (3, 1, 4, 1, 4, 2, 3, 2)], ImageSize(5, 2)).astype(int)
    array([[0, 1, 1, 0, 0],
           [0, 1, 1, 1, 0]])
    """
    if not polygons:
        return np.zeros((size.height, size.width), dtype=bool)
    coco = _coco_masks()
    parts = coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], size.height, size.width)
    return np.asarray(coco.decode(coco.merge(parts)), dtype=bool)


def rle_to_mask(counts: str | Sequence[int], size: ImageSize) -> Mask:
    """The mask of COCO's run lengths, column by column from the first pixel outside: compressed, or a list.

    ``ValueError`` where they are no mask of this size.

    >>> rle_to_mask([2, 3, 1], ImageSize(3, 2)).astype(int)
    array([[0, 1, 1],
           [0, 1, 0]])
    >>> mask_to_rle(_)
    '231'
    """
    num_pixels = size.width * size.height
    if isinstance(counts, str):
        try:
            found = _coco_masks().decode({"size": [size.height, size.width], "counts": counts})
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"run lengths {counts!r:.40} are no mask of {size.width}x{size.height} pixels") from error
        return np.asarray(found, dtype=bool)
    if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != num_pixels:
        raise ValueError(
            f"run lengths {list(counts)!r:.40} are no mask of {size.width}x{size.height} pixels; "
            f"expected whole numbers that sum to {num_pixels}"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size.width, size.height).T


def mask_to_rle(mask: NDArray[Any]) -> str:
    """COCO's compressed run lengths of a mask; equal masks give equal texts."""
    counts = _coco_masks().encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return str(counts, "ascii")


def target_mask(sample: Sample) -> Mask | None:
    """The mask of a grounding target, of the upright original image; None where the sample has none."""
    if not sample.polygons and sample.rle is None:
        return None
    mask = polygons_to_mask(sample.polygons, sample.target_size)
    return mask if sample.rle is None else mask | rle_to_mask(sample.rle, sample.target_size)


def ignored_mask(sample: Sample) -> Mask | None:
    """Where an answer is neither right nor wrong; None where that is nowhere.

    Where an outline to be ignored and one of the target overlap, the smaller one holds. Source: LISA's reading of
    ReasonSeg.
    """
    if not sample.ignored:
        return None
    size = sample.target_size
    parts = [(polygons_to_mask([outline], size), True) for outline in sample.ignored]
    parts += [(polygons_to_mask([outline], size), False) for outline in sample.polygons]
    if sample.rle is not None:
        parts.append((rle_to_mask(sample.rle, size), False))
    ignored = np.zeros((size.height, size.width), dtype=bool)
    for part, is_ignored in sorted(parts, key=lambda both: -int(both[0].sum())):
        ignored[part] = is_ignored
    return ignored


def _coco_masks() -> Any:
    from faster_coco_eval.core import mask

    return mask
