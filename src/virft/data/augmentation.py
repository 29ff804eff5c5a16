"""Data augmentation of images and their boxes: random resized crop, horizontal flip, colour jitter.

An augmented image holds only pixels of the original (no padding, so nothing appears twice), and no target box is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from virft.tasks import TASKS
from virft.types import Augmentation, Box, ImageSize, Polygon, Sample, Target

SIDES = re.compile(r"\b(left|right|(anti|counter)?clockwise)\b", re.IGNORECASE)
"""Words of a class name that a horizontal flip makes wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationLimits:
    """Limits of random augmentations; each default disables its kind. ``draw_augmentation`` says what it skips."""

    resized_crop: float = 0.0
    """Largest fraction of the width and of the height that a random resized crop removes."""
    horizontal_flip: bool = False
    """Flip half of the images."""
    colour_jitter: float = 0.0
    """Largest relative change of saturation and contrast; brightness changes by up to a quarter of it."""


def augment_sample(sample: Sample, rng: np.random.Generator, limits: AugmentationLimits) -> Sample:
    """Return the sample with a random augmentation of its target image, and the target transformed with it."""
    augmentation = draw_augmentation(sample, rng, limits)
    target = augment_target(augmentation, sample.task, sample.target, sample.target_size)
    return replace(sample, augmentation=augmentation, target=target)


def draw_augmentation(sample: Sample, rng: np.random.Generator, limits: AugmentationLimits) -> Augmentation:
    """Draw a random augmentation under which the sample's question and target stay correct.

    The task allows crops and flips (``allows_crop``, ``allows_flip``). A crop contains all target boxes. Not cropped:
    classification, because the object has no box and may be anywhere. Neither cropped nor flipped: grounding, because
    an expression may say "left" or "the largest", samples with a question of their own, which may say anything, and
    samples with a region, which the query may name. Not flipped: a class whose name or instructions have a side ("left
    shoe").
    """
    task, size = TASKS[sample.task], sample.target_size
    texts = (sample.query, *(note.text for note in sample.notes))
    names_no_place = sample.question is None and sample.region is None
    can_flip = task.allows_flip and names_no_place and not any(map(SIDES.search, texts))
    crop = (0.0, 0.0, float(size.width), float(size.height))
    # Every number is drawn even if unused, so that enabling one kind of augmentation does not change the others.
    removed, position, jitter = rng.random(2), rng.random(2), rng.uniform(-1.0, 1.0, 3)
    is_flipped = rng.random() < 0.5
    if task.allows_crop and names_no_place and limits.resized_crop:
        boxes = task.target_boxes(sample.target)
        crop = _random_crop(size, boxes, (limits.resized_crop * removed).tolist(), position.tolist())
    return Augmentation(
        crop=crop,
        horizontal_flip=bool(is_flipped and limits.horizontal_flip and can_flip),
        saturation=1.0 + limits.colour_jitter * float(jitter[0]),
        contrast=1.0 + limits.colour_jitter * float(jitter[1]),
        brightness=0.25 * limits.colour_jitter * float(jitter[2]),
    )


def augment_image(image: Image.Image, augmentation: Augmentation) -> Image.Image:
    """Return the augmented upright RGB image, of the same size."""
    if augmentation.crop != (0, 0, *image.size):
        image = image.resize(image.size, Image.Resampling.BICUBIC, box=augmentation.crop)
    if augmentation.horizontal_flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if (augmentation.saturation, augmentation.contrast, augmentation.brightness) == (1.0, 1.0, 0.0):
        return image
    pixels = np.asarray(image, dtype=np.float32) / 255  # [H, W, 3], 0 to 1
    grey = pixels.mean(-1, keepdims=True)  # [H, W, 1]
    pixels = grey + (pixels - grey) * augmentation.saturation
    pixels = (pixels - 0.5) * augmentation.contrast + 0.5 + augmentation.brightness
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def augment_box(augmentation: Augmentation, box: Box, size: ImageSize) -> Box:
    """Return a box, in pixels of an image of ``size``, in pixels of the augmented image.

    >>> flipped = Augmentation(crop=(10, 0, 50, 30), horizontal_flip=True)
    >>> augment_box(flipped, Box(x1=10, y1=5, x2=20, y2=9), ImageSize(80, 60))
    Box(x1=60.0, y1=10.0, x2=80.0, y2=18.0)
    """
    left, top, right, bottom = augmentation.crop
    scale_x, scale_y = size.width / (right - left), size.height / (bottom - top)
    x1, x2 = (right - box.x2, right - box.x1) if augmentation.horizontal_flip else (box.x1 - left, box.x2 - left)
    return Box(x1=x1 * scale_x, y1=(box.y1 - top) * scale_y, x2=x2 * scale_x, y2=(box.y2 - top) * scale_y)


def original_box(augmentation: Augmentation, box: Box, size: ImageSize) -> Box:
    """Return a box, in pixels of the augmented image, in pixels of its original of ``size``.

    >>> flipped = Augmentation(crop=(10, 0, 50, 30), horizontal_flip=True)
    >>> original_box(flipped, Box(x1=60, y1=10, x2=80, y2=18), ImageSize(80, 60))
    Box(x1=10.0, y1=5.0, x2=20.0, y2=9.0)
    """
    left, top, right, bottom = augmentation.crop
    scale_x, scale_y = (right - left) / size.width, (bottom - top) / size.height
    x1, x2 = (size.width - box.x2, size.width - box.x1) if augmentation.horizontal_flip else (box.x1, box.x2)
    return Box(x1=left + x1 * scale_x, y1=top + box.y1 * scale_y, x2=left + x2 * scale_x, y2=top + box.y2 * scale_y)


def augment_polygon(augmentation: Augmentation, polygon: Polygon, size: ImageSize) -> Polygon:
    """Return an outline on an image of ``size`` in pixels of the augmented image; it may reach outside of it."""
    corners = zip(polygon[::2], polygon[1::2], strict=True)
    placed = (augment_box(augmentation, Box(x1=x, y1=y, x2=x, y2=y), size) for x, y in corners)
    return tuple(value for corner in placed for value in corner.xyxy[:2])


def augment_target(augmentation: Augmentation, task: str, target: Target, size: ImageSize) -> Target:
    """Return a task's target on an image of ``size``, its boxes in pixels of the augmented image."""
    return TASKS[task].move_boxes(target, lambda box: augment_box(augmentation, box, size))


def make_augmenter(limits: AugmentationLimits, seed: int) -> Callable[[Sample, int, int], Sample]:
    """Return a function (sample, step, index in the batch) -> augmented sample.

    The augmentation depends only on the sample, ``seed``, the step and the index, so a resumed run repeats it.
    """

    def augment(sample: Sample, step: int, index: int) -> Sample:
        return augment_sample(sample, np.random.default_rng([seed, step, index]), limits)

    return augment


def _random_crop(
    size: ImageSize, boxes: Sequence[Box], removed: Sequence[float], position: Sequence[float]
) -> tuple[float, float, float, float]:
    """Return a crop that removes the fractions ``removed`` of width and height, or as much as the boxes allow."""
    x1, x2 = _random_interval(size.width, [(box.x1, box.x2) for box in boxes], removed[0], position[0])
    y1, y2 = _random_interval(size.height, [(box.y1, box.y2) for box in boxes], removed[1], position[1])
    return (x1, y1, x2, y2)


def _random_interval(
    side: int, occupied: Sequence[tuple[float, float]], removed: float, position: float
) -> tuple[float, float]:
    """Return start and end of an interval of [0, side] that contains every interval of ``occupied``."""
    low = min((start for start, _ in occupied), default=float(side))
    high = max((end for _, end in occupied), default=0.0)
    length = max(side * (1.0 - removed), high - low)
    # The interval may start anywhere between these two.
    first, last = max(0.0, high - length), min(low, side - length)
    start = first + position * max(0.0, last - first)
    return start, min(float(side), start + length)
