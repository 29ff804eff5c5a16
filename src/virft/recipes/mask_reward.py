"""Masks of predicted boxes for the reward: segmenter, cache of image embeddings, comparison with targets' masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virft.data.augmentation import original_box
from virft.data.images import load_image
from virft.data.segmented import compare_masks
from virft.models.segmenter import SamSegmenter
from virft.models.vision import FeatureCache
from virft.types import BoxPair, Sample, SegmentedBox


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskReward:
    """Segment predicted boxes and compare them with the masks of objects, as ``virft score --masks`` does.

    Original images are segmented, not augmented ones: masks of targets belong to them, and their embeddings can be
    cached. A box on a cropped or flipped image is moved back to the original first.
    """

    segmenter: SamSegmenter
    """The loaded segmenter. It is part of no trained model, so no checkpoint contains it."""
    cache: FeatureCache
    """Embeddings by image path."""

    def __call__(self, sample: Sample, pairs: Sequence[BoxPair]) -> list[SegmentedBox]:
        """Return the mask of the box of each pair; the objects of ``sample`` have masks. Equal boxes are decoded once.

        Boxes are in pixels of the image that the model saw, which ``sample.augmentation`` has made.
        """
        path = sample.images[sample.target_image]
        features = self.cache.get(path, lambda: self.segmenter.encode(load_image(path, sample_id=sample.id)))
        boxes = list(dict.fromkeys(pair.box for pair in pairs))
        view, size = sample.augmentation, sample.target_size
        placed = boxes if view is None else [original_box(view, box, size) for box in boxes]
        masks = dict(zip(boxes, self.segmenter.decode(features, size, placed), strict=True))
        return compare_masks(sample, pairs, [masks[pair.box] for pair in pairs])
