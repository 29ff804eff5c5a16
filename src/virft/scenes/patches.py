"""Render one planned object as a patch: its sprite after random flip, scale, rotation and colour change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from virft.scenes.assets import Style, sprite, styles_of

REFERENCE_SIZE = 112
"""Image side in pixels to which all sizes and margins in pixels refer; other image sizes scale them."""
SIDE_RANGE = (26.0, 62.0)
"""Smallest and largest longer side of a sprite in pixels, in an image of REFERENCE_SIZE."""
MAX_ROTATION_DEG = 25.0
"""Largest rotation in degrees, in both directions."""
BOX_ALPHA = 16
"""A box contains every pixel of more alpha than this; pixels of less are not drawn."""
MASK_ALPHA = 127
"""A mask contains every pixel of more alpha than this."""


@dataclass(frozen=True, slots=True)
class PlanItem:
    """Objects of one class in the plan of a scene."""

    class_name: str
    """Name of a class or a thing."""
    count: int = 1
    """Number of objects."""
    side_range: tuple[float, float] = SIDE_RANGE
    """Smallest and largest longer side in pixels, in an image of REFERENCE_SIZE."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Rendered object before it is placed in a scene, cropped to alpha > BOX_ALPHA."""

    class_name: str
    """Name of its class or thing."""
    style: Style
    """Style of the sprite."""
    rgba: NDArray[np.float32]
    """Pixels, float32 [h, w, 4] in 0..255, colours premultiplied by alpha."""
    mask: NDArray[np.bool_]
    """Pixels of alpha > MASK_ALPHA, bool [h, w]."""
    num_mask: int
    """Number of True values in ``mask``."""


def make_patch(rng: np.random.Generator, item: PlanItem, styles: Sequence[Style], scale: float) -> Patch:
    """Render one object of ``item`` in a random one of its ``styles``; ``scale`` multiplies its side range."""
    styles = styles_of(item.class_name, tuple(styles))
    style = styles[int(rng.integers(len(styles)))]
    source = _premultiplied(item.class_name, style, bool(rng.random() < 0.5))
    return transform(rng, source, rng.uniform(*item.side_range) * scale, item.class_name, style)


def transform(rng: np.random.Generator, source: Image.Image, side: float, class_name: str, style: Style) -> Patch:
    """Render a sprite in mode RGBa, its longer side of ``side`` pixels, with random rotation and colours."""
    zoom = max(8.0, side) / max(source.size)
    image = source.resize(
        (max(4, round(source.width * zoom)), max(4, round(source.height * zoom))), Image.Resampling.BILINEAR
    )
    angle = rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG)
    rgba = np.asarray(image.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    solid = rgba[..., 3] > BOX_ALPHA
    ys, xs = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    crop = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
    rgba, solid = rgba[crop], solid[crop][..., None]
    gain = np.append(rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3), 1.0).astype(np.float32)
    mask = rgba[..., 3] > MASK_ALPHA
    return Patch(
        class_name=class_name,
        style=style,
        rgba=np.minimum(rgba * gain, rgba[..., 3:])
        * solid,  # with a premultiplied colour above alpha, blending could exceed 255
        mask=mask,
        num_mask=int(mask.sum()),
    )


@cache
def _premultiplied(class_name: str, style: Style, flipped: bool) -> Image.Image:
    """Return the sprite in mode RGBa (premultiplied), so that resizing and rotating need no conversion."""
    image = sprite(class_name, style)
    return (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image).convert("RGBa")
