"""Masks of predicted boxes, compared with the masks of a sample's objects."""

from __future__ import annotations

from collections.abc import Sequence

from virft.geometry.masks import Mask, ignored_mask, mask_to_rle, object_mask
from virft.metrics.masks import mask_overlap
from virft.types import BoxPair, Sample, SegmentedBox


def compare_masks(sample: Sample, pairs: Sequence[BoxPair], masks: Sequence[Mask]) -> list[SegmentedBox]:
    """Return the mask of the box of each pair, compared with the mask of its object.

    ``masks``: bool [height, width] of the upright original image, one for each pair.
    """
    ignored = ignored_mask(sample)
    objects = {index: object_mask(sample, index) for index in {pair.target for pair in pairs}}
    return [
        SegmentedBox(pair, iou=mask_overlap(one, objects[pair.target], ignored).iou, rle=mask_to_rle(one))
        for pair, one in zip(pairs, masks, strict=True)
    ]
