"""Turns a planned object into a patch: its cut-out after flip, scale, rotation and change of light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from virft.scenes.assets import Style, sprite, styles_of

REFERENCE_SIZE = 112  # the image size that sides and margins in pixels are written for
SIDE_RANGE = (26.0, 62.0)  # longer side of a cut-out in an image of REFERENCE_SIZE
MAX_ROTATION_DEG = 25.0
BOX_ALPHA = 16  # a box holds every pixel with more alpha than this; pixels with less are not drawn
MASK_ALPHA = 127  # a mask holds every pixel with more alpha than this


@dataclass(frozen=True, slots=True)
class PlanItem:
    """``count`` objects of one class; ``side_range``: longer side in pixels at REFERENCE_SIZE."""

    class_name: str
    count: int = 1
    side_range: tuple[float, float] = SIDE_RANGE


@dataclass(frozen=True, slots=True)
class Patch:
    """A cut-out ready to be placed, cropped to alpha > BOX_ALPHA, and its mask.

    ``rgba``: float32 [h, w, 4] in 0..255, colours multiplied by alpha.
    """

    class_name: str
    style: Style
    rgba: NDArray[np.float32]
    mask: NDArray[np.bool_]
    num_mask: int


def make_patch(rng: np.random.Generator, item: PlanItem, styles: Sequence[Style], scale: float) -> Patch:
    """One object of ``item`` in a random one of the styles that it has; ``scale`` multiplies its side range."""
    styles = styles_of(item.class_name, tuple(styles))
    style = styles[int(rng.integers(len(styles)))]
    source = _premultiplied(item.class_name, style, bool(rng.random() < 0.5))
    zoom = max(8.0, rng.uniform(*item.side_range) * scale) / max(source.size)
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
        class_name=item.class_name,
        style=style,
        rgba=np.minimum(rgba * gain, rgba[..., 3:]) * solid,  # a colour above alpha would shine through
        mask=mask,
        num_mask=int(mask.sum()),
    )


@cache
def _premultiplied(class_name: str, style: Style, flipped: bool) -> Image.Image:
    """The cut-out in mode RGBa, so that resizing and rotating need no conversion."""
    image = sprite(class_name, style)
    return (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image).convert("RGBa")
