"""Render a scene: sprites on a crop of a photograph, with exact boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from virft.scenes.assets import TRAIN_STYLES, Split, Style, background, background_files, group_of
from virft.scenes.patches import REFERENCE_SIZE, Patch, PlanItem, make_patch
from virft.types import Box, ImageSize

MIN_VISIBLE_FRAC = 0.6
"""Smallest fraction of an object's mask that no later object covers."""
MAX_BOX_IOU = 0.4
"""Upper bound of the IoU of two boxes in a scene."""
_OVERHANG_CHANCE = 0.15  # of objects that may reach out of the image
_PLACE_TRIES = 40
_LAYOUT_TRIES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One object in a scene."""

    class_name: str
    """Name of its class or thing."""
    group: str
    """Group of the class."""
    style: Style
    """Style of the sprite."""
    box: Box
    """Box in pixels, clipped to the image; x2 and y2 are exclusive."""
    visible_frac: float
    """Fraction of its mask pixels, including those outside the image, that no later object covers."""
    image_size: ImageSize = field(repr=False)
    """Size of the scene in pixels."""
    patch_mask: NDArray[np.bool_] = field(repr=False, compare=False)
    """Mask of the patch before it was placed, bool [h, w]."""
    patch_origin: tuple[int, int] = field(repr=False)
    """Top left corner (x, y) of the patch in the scene, in pixels; negative if it reaches out of the image."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels where this object is drawn, covered or not: bool [H, W]."""
        mask = np.zeros((self.image_size.height, self.image_size.width), dtype=bool)
        window = _window(self.patch_mask.shape, self.patch_origin, len(mask))
        mask[window.ys, window.xs] = self.patch_mask[window.patch_ys, window.patch_xs]
        return mask


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """Rendered scene."""

    image: NDArray[np.uint8]
    """RGB pixels, uint8 [H, W, 3]."""
    objects: tuple[SceneObject, ...]
    """Objects in drawing order, the last one on top."""

    @property
    def size(self) -> ImageSize:
        """Size of the image in pixels."""
        return ImageSize(self.image.shape[1], self.image.shape[0])

    def visible_mask(self, index: int) -> NDArray[np.bool_]:
        """Return the pixels of object ``index`` that no later object covers: bool [H, W]."""
        mask = self.objects[index].mask
        for later in self.objects[index + 1 :]:
            mask &= ~later.mask
        return mask


class _Window(NamedTuple):
    """Part of a patch that is inside the image: slices of the image and of the patch."""

    ys: slice
    xs: slice
    patch_ys: slice
    patch_xs: slice


def render_scene(
    rng: np.random.Generator,
    plan: Sequence[PlanItem],
    *,
    styles: Sequence[Style] = TRAIN_STYLES,
    split: Split = Split.TRAIN,
    size: int = REFERENCE_SIZE,
    object_scale: float = 1.0,
) -> Scene:
    """Render a scene with exactly the planned objects, each at least 60 % visible, and all box IoUs below 0.4.

    ``size``: width and height in pixels. ``object_scale``: factor of the sizes of objects. Objects shrink until all of
    them have a place; raises ``ValueError`` if even the smallest do not. The same generator state gives the same bytes.

    >>> scene = render_scene(np.random.default_rng(0), [PlanItem("cat", 2), PlanItem("apple")])
    >>> scene.image.shape, sorted(o.class_name for o in scene.objects)
    ((112, 112, 3), ['apple', 'cat', 'cat'])
    """
    items = [item for item in plan for _ in range(item.count)]
    canvas = random_canvas(rng, split, size)

    def make_patches(shrink: float) -> list[Patch]:
        return [make_patch(rng, items[i], styles, shrink * object_scale) for i in rng.permutation(len(items))]

    scene = compose_scene(rng, canvas, make_patches)
    if scene is None:
        raise ValueError(f"no layout of {len(items)} objects found in {size} x {size} pixels: {plan}")
    return scene


def compose_scene(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    make_patches: Callable[[float], list[Patch]],
    group_of: Callable[[str], str] = group_of,
) -> Scene | None:
    """Return a scene with all patches on ``canvas`` [H, H, 3] in 0..255, which is drawn on; None if there is no place.

    ``make_patches``: from the factor of all sizes to the patches in drawing order; called with smaller and smaller
    factors, the first one of which is the ratio of the side to REFERENCE_SIZE. ``group_of``: class name -> group.
    """
    size = len(canvas)
    for attempt in range(_LAYOUT_TRIES):
        patches = make_patches(size / REFERENCE_SIZE * 0.93**attempt)
        if (layout := _layout(rng, patches, size)) is not None:
            break
    else:
        return None
    return _composed(canvas, patches, layout, group_of)


def compose_at(canvas: NDArray[np.float32], patches: Sequence[Patch], origins: Sequence[tuple[int, int]]) -> Scene:
    """Return a scene with patches at given places on ``canvas`` [H, H, 3] in 0..255, which is drawn on.

    ``origins``: top left corner (x, y) of each patch in pixels. All patches are inside the image, none covers another.
    """
    boxes = [
        (x, y, x + patch.mask.shape[1], y + patch.mask.shape[0]) for patch, (x, y) in zip(patches, origins, strict=True)
    ]
    return _composed(canvas, patches, _Layout(list(origins), np.array(boxes, float), np.ones(len(patches))), group_of)


def _composed(
    canvas: NDArray[np.float32], patches: Sequence[Patch], layout: _Layout, group_of: Callable[[str], str]
) -> Scene:
    """Draw the patches on ``canvas`` and return the scene."""
    size = len(canvas)
    for patch, origin in zip(patches, layout.origins, strict=True):
        _draw(canvas, patch, origin)
    return Scene(
        image=canvas.astype(np.uint8),
        objects=tuple(
            SceneObject(
                class_name=patch.class_name,
                group=group_of(patch.class_name),
                style=patch.style,
                box=Box(x1=float(box[0]), y1=float(box[1]), x2=float(box[2]), y2=float(box[3])),
                visible_frac=float(visible),
                image_size=ImageSize(size, size),
                patch_mask=patch.mask,
                patch_origin=origin,
            )
            for patch, origin, box, visible in zip(patches, layout.origins, layout.boxes, layout.visible, strict=True)
        ),
    )


def random_canvas(rng: np.random.Generator, split: Split, size: int) -> NDArray[np.float32]:
    """Return a random background of a split: float32 [size, size, 3] in 0..255."""
    names = background_files(split)
    return background_crop(rng, background(names[rng.integers(len(names))]), size)


def background_crop(rng: np.random.Generator, photo: Image.Image, size: int) -> NDArray[np.float32]:
    """Return a random square of a photograph in random light and colour: float32 [size, size, 3] in 0..255."""
    side = min(photo.size) * rng.uniform(0.45, 1.0)
    left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    crop = photo.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=2.0
    )
    pixels = np.asarray(crop, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    contrast, brightness = rng.uniform(0.75, 1.15), rng.uniform(-22, 22)
    gain = contrast * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    pixels = pixels * gain + np.float32(128 * (1 - contrast) + brightness)
    return np.clip(pixels, 0, 255, out=pixels)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Placement of N patches, in drawing order."""

    origins: list[tuple[int, int]]
    """Top left corner (x, y) of each patch, in pixels."""
    boxes: NDArray[np.float64]
    """Boxes (x1, y1, x2, y2) in pixels, [N, 4]."""
    visible: NDArray[np.float64]
    """Visible fraction of each mask, [N]."""


def _layout(rng: np.random.Generator, patches: Sequence[Patch], size: int) -> _Layout | None:
    """Place the patches one after another at random; None if one of them has no valid place after some tries."""
    top = np.zeros((size, size), dtype=np.intp)  # 1 + index of the topmost patch, 0 for the background
    origins: list[tuple[int, int]] = []
    boxes = np.zeros((len(patches), 4))
    num_visible = np.zeros(len(patches))
    num_mask = np.array([patch.num_mask for patch in patches], dtype=float)
    for index, patch in enumerate(patches):
        for _ in range(_PLACE_TRIES):
            origin = _random_origin(rng, patch.mask.shape, size)
            window = _window(patch.mask.shape, origin, size)
            box = _tight_box(patch, window)
            if index and _max_iou(boxes[:index], box) >= MAX_BOX_IOU:
                continue
            mask = patch.mask[window.patch_ys, window.patch_xs]
            covered = np.bincount(top[window.ys, window.xs][mask], minlength=len(patches) + 1)[1:]
            left = num_visible - covered  # visible pixels of each patch if this one is drawn here
            left[index] = mask.sum()
            if (left[: index + 1] >= MIN_VISIBLE_FRAC * num_mask[: index + 1]).all():
                break
        else:
            return None
        top[window.ys, window.xs][mask] = index + 1
        num_visible = left
        boxes[index] = box
        origins.append(origin)
    # a small rotated cut-out of a thin object may have no pixel in its mask: nothing of it is visible
    return _Layout(origins, boxes, num_visible / np.maximum(num_mask, 1))


def _random_origin(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return a random top left corner (x, y); occasionally up to a quarter of the patch is outside the image."""
    height, width = shape
    reach = 0.25 if rng.random() < _OVERHANG_CHANCE else 0.0
    slack_x, slack_y = int(reach * width), int(reach * height)
    x = rng.integers(-slack_x, max(-slack_x, size - width + slack_x) + 1)
    y = rng.integers(-slack_y, max(-slack_y, size - height + slack_y) + 1)
    return int(x), int(y)


def _window(shape: tuple[int, ...], origin: tuple[int, int], size: int) -> _Window:
    """Return the part of a patch of shape [h, w] at ``origin`` (x, y) that is inside a square image."""
    (height, width), (x, y) = shape, origin
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, size), min(y + height, size)
    return _Window(slice(y1, y2), slice(x1, x2), slice(y1 - y, y2 - y), slice(x1 - x, x2 - x))


def _tight_box(patch: Patch, window: _Window) -> tuple[int, int, int, int]:
    """Return the box of the pixels drawn inside the image; it can be smaller than the window of a clipped patch."""
    x, y = window.xs.start, window.ys.start
    if (window.ys.stop - y, window.xs.stop - x) == patch.mask.shape:
        return (x, y, window.xs.stop, window.ys.stop)
    drawn = patch.rgba[window.patch_ys, window.patch_xs, 3] > 0
    ys, xs = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    return (x + int(xs[0]), y + int(ys[0]), x + int(xs[-1]) + 1, y + int(ys[-1]) + 1)


def _max_iou(boxes: NDArray[np.float64], box: tuple[int, int, int, int]) -> float:
    """Return the largest IoU of ``box`` with the rows of ``boxes`` [N, 4]."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, 2:], box[2:])
    intersection = np.maximum(high - low, 0).prod(1)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return float((intersection / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + area - intersection)).max())


def _draw(canvas: NDArray[np.float32], patch: Patch, origin: tuple[int, int]) -> None:
    """Blend the patch into ``canvas`` [H, W, 3], in place."""
    window = _window(patch.mask.shape, origin, len(canvas))
    rgba = patch.rgba[window.patch_ys, window.patch_xs]
    under = canvas[window.ys, window.xs]
    under *= 1 - rgba[..., 3:] / np.float32(255)
    under += rgba[..., :3]
