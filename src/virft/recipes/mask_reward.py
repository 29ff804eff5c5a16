"""Masks of predicted boxes for the reward: segmenter, cache of image embeddings, comparison with the target's mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virft.data.images import load_image
from virft.data.segmented import compare_masks
from virft.models.segmenter import SamSegmenter
from virft.models.vision import FeatureCache
from virft.types import Box, Sample, SegmentedBox


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskReward:
    """Segment predicted boxes and compare them with the target's mask, as ``virft score --masks`` does.

    Images are segmented without augmentation, as the target's mask belongs to the original image: questions with a mask
    are neither cropped nor flipped, only their colours change. So the embeddings of an image do not change either.
    """

    segmenter: SamSegmenter
    """The loaded segmenter. It is part of no trained model, so no checkpoint contains it."""
    cache: FeatureCache
    """Embeddings by image path."""

    def __call__(self, sample: Sample, boxes: Sequence[Box]) -> list[SegmentedBox]:
        """Return the mask of each box. ``sample`` has a mask; ``boxes`` are in pixels of its upright original image."""
        path = sample.images[sample.target_image]
        features = self.cache.get(path, lambda: self.segmenter.encode(load_image(path, sample_id=sample.id)))
        return compare_masks(sample, self.segmenter.decode(features, sample.target_size, boxes))
