"""Binary masks from boxes, polygons and COCO run lengths (RLE).

faster-coco-eval rasterises polygons and decodes run lengths; it is imported at the first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virft.types import Box, ImageSize, Polygon, Sample

Mask = NDArray[np.bool_]
"""Bool array of shape [H, W]: one value per pixel, True inside."""


def box_to_mask(box: Box, size: ImageSize) -> Mask:
    """Return the mask [H, W] of the pixels whose centre lies in the box; ``box`` is in pixels of an image of ``size``.

    >>> box_to_mask(Box(x1=0.5, y1=0, x2=2.4, y2=1), ImageSize(4, 2)).astype(int)
    array([[1, 1, 0, 0],
           [0, 0, 0, 0]])
    """
    mask = np.zeros((size.height, size.width), dtype=bool)
    x1, y1, x2, y2 = (max(0, math.ceil(value - 0.5)) for value in box.xyxy)
    mask[y1:y2, x1:x2] = True
    return mask


def polygons_to_mask(polygons: Sequence[Polygon], size: ImageSize) -> Mask:
    """Return the union [H, W] of closed outlines in pixels of an image of ``size``; all False without an outline.

    Parts outside the image are clipped. Source: COCO's rule for pixels on an outline.

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
    """Decode COCO run lengths to a mask [H, W] of an image of ``size``.

    ``counts``: compressed text, or a list of run lengths in pixels. Runs go down the columns from left to right, and
    alternate between outside and inside, beginning outside. Raises ``ValueError`` if they do not sum to H x W.

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
            raise ValueError(
                f"run lengths {counts!r:.40} are not a mask of {size.width}x{size.height} pixels"
            ) from error
        return np.asarray(found, dtype=bool)
    if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != num_pixels:
        raise ValueError(
            f"run lengths {list(counts)!r:.40} are not a mask of {size.width}x{size.height} pixels; "
            f"expected integers of at least 0 that sum to {num_pixels}"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size.width, size.height).T  # [W, H] -> [H, W]


def mask_to_rle(mask: NDArray[Any]) -> str:
    """Encode a mask of shape [H, W], of any numeric or bool dtype, as COCO's compressed run lengths.

    Equal masks give equal texts.
    """
    counts = _coco_masks().encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return str(counts, "ascii")


def mask_ious(predicted: Sequence[str], targets: Sequence[str], size: ImageSize) -> list[list[float]]:
    """Return the IoU of each predicted mask with each target, given as ``mask_to_rle`` of an image of ``size``.

    >>> left, whole = (mask_to_rle(box_to_mask(Box(x1=0, y1=0, x2=x2, y2=2), ImageSize(4, 2))) for x2 in (2, 4))
    >>> mask_ious([left, whole], [whole], ImageSize(4, 2))
    [[0.5], [1.0]]
    """
    if not predicted or not targets:
        return [[] for _ in predicted]
    found, expected = (
        [{"size": [size.height, size.width], "counts": counts} for counts in some] for some in (predicted, targets)
    )
    ious: NDArray[np.float64] = _coco_masks().iou(found, expected, [0] * len(expected))
    return [[float(iou) for iou in row] for row in ious]


def mask_outlines(mask: Mask) -> list[Polygon]:
    """Return the closed outlines of a mask [H, W] along the edges of its pixels, in pixels; holes have their own.

    Outer outlines go clockwise as seen on the image, those of holes counter-clockwise.

    >>> mask_outlines(np.array([[False, True, True], [False, False, True]]))
    [(1, 0, 3, 0, 3, 2, 2, 2, 2, 1, 1, 1)]
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Each edge between a pixel inside and one outside: (y, x) of its start -> its direction (dy, dx), with the mask on
    # its right. Two edges start where two pixels touch at a corner only.
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for outside, (start_y, start_x), direction in (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),  # above the pixel: to the right
        (padded[1:-1, 2:], (0, 1), (1, 0)),  # right of it: down
        (padded[2:, 1:-1], (1, 1), (0, -1)),  # below it: to the left
        (padded[1:-1, :-2], (1, 0), (-1, 0)),  # left of it: up
    ):
        for y, x in np.argwhere(inside & ~outside).tolist():
            steps.setdefault((y + start_y, x + start_x), []).append(direction)
    return [_take_outline(start, steps) for start in sorted(steps) if start in steps]


def _take_outline(first: tuple[int, int], steps: dict[tuple[int, int], list[tuple[int, int]]]) -> Polygon:
    """Remove one closed walk from ``steps`` and return its corners; ``first`` is its top left one."""
    y, x = first
    before: tuple[int, int] | None = None
    corners: list[float] = []
    while before is None or (y, x) != first:
        choices = steps[y, x]
        # At a corner of two pixels, turn right: around the same pixel.
        turn = None if before is None else (before[1], -before[0])
        step = choices.pop(choices.index(turn) if turn in choices else 0)
        if not choices:
            del steps[y, x]
        if step != before:
            corners += [x, y]
        before, y, x = step, y + step[0], x + step[1]
    return tuple(corners)


def target_mask(sample: Sample) -> Mask | None:
    """Return the mask [H, W] of a target on the upright original image, the union over its objects.

    None if an object has no mask, and without objects.
    """
    if not sample.has_mask:
        return None
    outlines = [*sample.polygons, *(polygon for polygons in sample.outlines for polygon in polygons)]
    mask = polygons_to_mask(outlines, sample.target_size)
    return mask if sample.rle is None else mask | rle_to_mask(sample.rle, sample.target_size)


def object_mask(sample: Sample, index: int) -> Mask:
    """Return the mask [H, W] of one object of a target on the upright original image; it has one (``has_mask``).

    ``index``: that of its box in a target of detection; 0 for the only object of grounding.
    """
    if sample.outlines:
        return polygons_to_mask(sample.outlines[index], sample.target_size)
    mask = target_mask(sample)
    assert mask is not None, f"{sample.id} has no mask"
    return mask


def ignored_mask(sample: Sample) -> Mask | None:
    """Return the mask [H, W] of pixels that count neither as correct nor as wrong; None if no pixel is ignored.

    If an ignored outline overlaps one of the target, the smaller of the two decides. Source: LISA's code for ReasonSeg.
    """
    if not sample.ignored:
        return None
    size = sample.target_size
    parts = [(polygons_to_mask([outline], size), True) for outline in sample.ignored]
    parts += [(polygons_to_mask([outline], size), False) for outline in sample.polygons]
    if sample.rle is not None:
        parts.append((rle_to_mask(sample.rle, size), False))
    ignored = np.zeros((size.height, size.width), dtype=bool)
    # Largest first: smaller parts overwrite them.
    for part, is_ignored in sorted(parts, key=lambda both: -int(both[0].sum())):
        ignored[part] = is_ignored
    return ignored


def _coco_masks() -> Any:
    from faster_coco_eval.core import mask

    return mask
