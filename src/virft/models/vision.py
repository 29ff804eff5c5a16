"""Images on their way into a model: what the processor made, what the tower made, and the cache of the latter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionInputs:
    """What the image processor made of a prompt's images.

    ``pixel_values`` [pieces, ...]: one entry for each patch (Qwen) or tile (all others), image after image.
    ``per_image``: what the family needs to know of each image, by name, [images, ...] each: how many patches along
    time, height and width; or how many tiles, in which rows.
    """

    pixel_values: Tensor
    per_image: Mapping[str, Tensor]

    @property
    def num_images(self) -> int:
        """Images of the prompt."""
        return len(next(iter(self.per_image.values())))

    def to(self, device: torch.device) -> VisionInputs:
        """The same inputs on another device."""
        return VisionInputs(
            pixel_values=self.pixel_values.to(device),
            per_image={name: values.to(device) for name, values in self.per_image.items()},
        )

    @staticmethod
    def join(prompts: Sequence[VisionInputs]) -> VisionInputs:
        """The images of several prompts, in order, as if they were one prompt's."""
        return VisionInputs(
            pixel_values=torch.cat([one.pixel_values for one in prompts]),
            per_image={name: torch.cat([one.per_image[name] for one in prompts]) for name in prompts[0].per_image},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """What the vision tower made of a prompt's images.

    ``tokens``: one [image tokens, hidden] per image. ``deep``: per layer that receives more of them (Qwen3-VL),
    one such list.
    """

    tokens: tuple[Tensor, ...]
    deep: tuple[tuple[Tensor, ...], ...] = ()

    @property
    def num_bytes(self) -> int:
        """Memory held by the tensors."""
        tensors = [*self.tokens, *(tensor for layer in self.deep for tensor in layer)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def split(self, counts: Sequence[int]) -> list[ImageFeatures]:
        """The way back from ``VisionInputs.join``: ``counts[i]`` images for prompt i."""
        ends = list(accumulate(counts))
        return [
            ImageFeatures(
                tokens=self.tokens[end - count : end], deep=tuple(layer[end - count : end] for layer in self.deep)
            )
            for count, end in zip(counts, ends, strict=True)
        ]

    def detach(self) -> ImageFeatures:
        """The same values outside of any gradient."""
        return ImageFeatures(
            tokens=tuple(tensor.detach() for tensor in self.tokens),
            deep=tuple(tuple(tensor.detach() for tensor in layer) for layer in self.deep),
        )


@dataclass(kw_only=True)
class FeatureCache:
    """Image features of the latest images, at most ``max_bytes`` of them.

    For a frozen tower only: a key must name the picture and its pixel budget, nothing else changes the features.
    """

    max_bytes: int = 2 << 30
    hits: int = 0
    misses: int = 0
    _kept: OrderedDict[Hashable, ImageFeatures] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def get(self, key: Hashable, encode: Callable[[], ImageFeatures]) -> ImageFeatures:
        """The features kept under ``key``, else those that ``encode`` makes now, without gradient."""
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        self.misses += 1
        with torch.no_grad():
            features = encode()
        self._kept[key] = features
        self._bytes += features.num_bytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].num_bytes
        return features
