"""Images on their way into a model: output of the image processor, features of the vision tower, and their cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionInputs:
    """Output of the image processor for the images of a prompt."""

    pixel_values: Tensor
    """Normalised pixels, float32 [pieces, ...]: one entry per patch (Qwen) or tile (other families), image by image."""

    per_image: Mapping[str, Tensor]
    """Facts about each image that its family needs, by name, int64 [images, ...] each: numbers of patches along time,
    height and width, or numbers of tiles in rows and columns."""

    @property
    def num_images(self) -> int:
        """Number of images of the prompt."""
        return len(next(iter(self.per_image.values())))

    def to(self, device: torch.device) -> VisionInputs:
        """Return the same inputs on another device."""
        return VisionInputs(
            pixel_values=self.pixel_values.to(device),
            per_image={name: values.to(device) for name, values in self.per_image.items()},
        )

    @staticmethod
    def join(prompts: Sequence[VisionInputs]) -> VisionInputs:
        """Concatenate the images of several prompts, in order, as if they were of one prompt."""
        return VisionInputs(
            pixel_values=torch.cat([one.pixel_values for one in prompts]),
            per_image={name: torch.cat([one.per_image[name] for one in prompts]) for name in prompts[0].per_image},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """Output of the vision tower for the images of a prompt."""

    tokens: tuple[Tensor, ...]
    """Features of each image, [image tokens, hidden], in the dtype of the tower."""

    deep: tuple[tuple[Tensor, ...], ...] = ()
    """Deepstack features (Qwen3-VL): for each decoder layer that adds them, [image tokens, hidden] of each image."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [*self.tokens, *(tensor for layer in self.deep for tensor in layer)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def split(self, counts: Sequence[int]) -> list[ImageFeatures]:
        """Undo ``VisionInputs.join``: one entry per prompt, with ``counts[i]`` images for prompt i."""
        ends = list(accumulate(counts))
        return [
            ImageFeatures(
                tokens=self.tokens[end - count : end], deep=tuple(layer[end - count : end] for layer in self.deep)
            )
            for count, end in zip(counts, ends, strict=True)
        ]

    def detach(self) -> ImageFeatures:
        """Return the same features, detached from the autograd graph."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device) -> ImageFeatures:
        """Return the same features on another device; a copy from pinned memory does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> ImageFeatures:
        """Return the same features with those on a GPU in pinned host memory.

        The copy is ordered by the current stream, and the host does not wait. Until that stream is synchronized, the
        result may be read by copies of the same stream only.
        """
        return self._map(_pinned)

    def _map(self, change: Callable[[Tensor], Tensor]) -> ImageFeatures:
        return ImageFeatures(
            tokens=tuple(map(change, self.tokens)), deep=tuple(tuple(map(change, layer)) for layer in self.deep)
        )


def _pinned(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


@dataclass(kw_only=True)
class FeatureCache:
    """Least-recently-used cache of image features.

    For a frozen tower only. A key must name the image and its pixel budget; nothing else changes the features. Features
    from a GPU are stored in pinned host memory: an image has 1 to 5 MB of them, whose copy takes less than a
    millisecond, and the memory of the GPU is scarcer.
    """

    max_bytes: int = 2 << 30
    """Most bytes of features to store; a single entry may exceed it."""

    hits: int = 0
    """Number of look-ups that found their entry."""

    misses: int = 0
    """Number of look-ups that ran the tower."""

    _entries: OrderedDict[Hashable, ImageFeatures] = field(default_factory=OrderedDict)
    """Features by key, the least recently used first."""

    _bytes: int = 0
    """Bytes of all entries."""

    def __contains__(self, key: Hashable) -> bool:
        """Return True if features are stored under ``key``. Not counted as a use of them."""
        return key in self._entries

    def get(self, key: Hashable, encode: Callable[[], ImageFeatures]) -> ImageFeatures:
        """Return the features stored under ``key``, else those that ``encode`` computes now, without gradient.

        Stored ones are on the CPU if ``encode`` returned them on a GPU.
        """
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key]
        self.misses += 1
        # An autograd graph of a stored entry would be used by a second backward, which fails.
        with torch.no_grad():
            features = encode()
        self._entries[key] = features.pinned()
        self._bytes += features.num_bytes
        while self._bytes > self.max_bytes and len(self._entries) > 1:
            self._bytes -= self._entries.popitem(last=False)[1].num_bytes
        return features
