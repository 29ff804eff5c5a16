"""The size to which a model of the Qwen-VL families resizes an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from virft.errors import ConfigError
from virft.types import ImageSize

Resize = Callable[[ImageSize], ImageSize]
"""Function from the size of an image to the size that the model sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QwenResize:
    """Compute the size to which the image processor of Qwen2-VL, Qwen2.5-VL or Qwen3-VL resizes an image.

    Sides become multiples of ``unit`` pixels (28, or 32 for Qwen3-VL); the area is at least ``min_pixels`` and at most
    ``max_pixels``. A call raises ``ConfigError`` for a side ratio above 200, which the processors refuse.
    Source: ``smart_resize`` of transformers 5.19.

    >>> QwenResize(unit=28, min_pixels=3136, max_pixels=401408)(ImageSize(640, 480))
    ImageSize(width=644, height=476)
    """

    unit: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def of(cls, image_processor: Any) -> QwenResize:
        """Read the values from an image processor: ``processor.image_processor`` of transformers."""
        size = image_processor.size
        return cls(
            unit=image_processor.patch_size * image_processor.merge_size,
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
        )

    def __call__(self, size: ImageSize) -> ImageSize:
        """Return the size that the model sees; ``ConfigError`` for a side ratio above 200."""
        width, height = size
        if max(size) > 200 * min(size):
            raise ConfigError(f"resize: {width} x {height} pixels; expected a side ratio of at most 200")
        unit = self.unit
        wide, high = round(width / unit) * unit, round(height / unit) * unit
        if wide * high > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            wide = max(unit, math.floor(width / shrink / unit) * unit)
            high = max(unit, math.floor(height / shrink / unit) * unit)
        elif wide * high < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            wide, high = math.ceil(width * grow / unit) * unit, math.ceil(height * grow / unit) * unit
        return ImageSize(wide, high)
