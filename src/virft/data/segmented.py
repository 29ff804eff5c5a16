"""Masks of predicted boxes, compared with the mask of a sample."""

from __future__ import annotations

from collections.abc import Sequence

from virft.geometry.masks import Mask, ignored_mask, mask_to_rle, target_mask
from virft.metrics.masks import mask_overlap
from virft.types import Sample, SegmentedBox


def compare_masks(sample: Sample, masks: Sequence[Mask]) -> list[SegmentedBox]:
    """Return each mask, bool [height, width] of the upright original image, compared with that of the sample."""
    target, ignored = target_mask(sample), ignored_mask(sample)
    assert target is not None, f"{sample.id} has no mask"
    return [SegmentedBox(iou=mask_overlap(one, target, ignored).iou, rle=mask_to_rle(one)) for one in masks]
