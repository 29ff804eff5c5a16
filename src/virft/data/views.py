"""Changed looks at the pictures of a small set, so that a model cannot learn them by heart.

A view shows real pixels only (nothing is padded, so nothing appears twice) and every target box whole: a box never
changes its meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from virft.tasks import TASKS
from virft.types import Box, ImageSize, Sample, Target, View

SIDES = re.compile(r"\b(left|right|(anti|counter)?clockwise)\b", re.IGNORECASE)
"""Words of a class name that a mirror would make untrue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewRange:
    """How far views may go. ``zoom``: share of the width and of the height that a crop may take away at most.

    ``mirror``: half of the views are mirrored. ``tones``: largest change of saturation and contrast; brightness changes
    by up to a quarter of it. What would change the meaning of a sample is left out: see ``draw_view``.
    """

    zoom: float = 0.0
    mirror: bool = False
    tones: float = 0.0


def viewed(sample: Sample, rng: np.random.Generator, limits: ViewRange) -> Sample:
    """The sample with a random view of its target image, and the target as seen there."""
    view = draw_view(sample, rng, limits)
    return replace(sample, view=view, target=target_in(view, sample.task, sample.target, sample.target_size))


def draw_view(sample: Sample, rng: np.random.Generator, limits: ViewRange) -> View:
    """A random view that leaves the sample's question and answer true.

    A task says what it allows (``allows_crop``, ``allows_flip``). Crops hold all boxes of the target. A class without a
    box (classification) may be anywhere, so nothing is cropped there; an expression may say "left" or "the largest", so
    grounding is neither mirrored nor cropped; nor is a sample with a question of its own, which may say anything. A
    class that names a side ("left shoe") is not mirrored.
    """
    task, size = TASKS[sample.task], sample.target_size
    may_flip = task.allows_flip and sample.question is None and not SIDES.search(sample.query)
    crop = (0.0, 0.0, float(size.width), float(size.height))
    # every number is drawn whether used or not: one more setting must not change the others
    cut, place, tones = rng.random(2), rng.random(2), rng.uniform(-1.0, 1.0, 3)
    mirrored = rng.random() < 0.5
    if task.allows_crop and sample.question is None and limits.zoom:
        crop = _random_crop(size, task.target_boxes(sample.target), (limits.zoom * cut).tolist(), place.tolist())
    return View(
        crop=crop,
        mirrored=bool(mirrored and limits.mirror and may_flip),
        saturation=1.0 + limits.tones * float(tones[0]),
        contrast=1.0 + limits.tones * float(tones[1]),
        brightness=0.25 * limits.tones * float(tones[2]),
    )


def look(image: Image.Image, view: View) -> Image.Image:
    """The upright picture as the view shows it, as large as before."""
    seen = image
    if view.crop != (0, 0, *image.size):
        seen = image.resize(image.size, Image.Resampling.BICUBIC, box=view.crop)
    if view.mirrored:
        seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if (view.saturation, view.contrast, view.brightness) == (1.0, 1.0, 0.0):
        return seen
    pixels = np.asarray(seen, dtype=np.float32) / 255
    grey = pixels.mean(-1, keepdims=True)
    pixels = grey + (pixels - grey) * view.saturation
    pixels = (pixels - 0.5) * view.contrast + 0.5 + view.brightness
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def box_in(view: View, box: Box, size: ImageSize) -> Box:
    """A box of a picture of ``size``, as the view shows it.

    >>> box_in(View(crop=(10, 0, 50, 30), mirrored=True), Box(x1=10, y1=5, x2=20, y2=9), ImageSize(80, 60))
    Box(x1=60.0, y1=10.0, x2=80.0, y2=18.0)
    """
    left, top, right, bottom = view.crop
    across, down = size.width / (right - left), size.height / (bottom - top)
    x1, x2 = (right - box.x2, right - box.x1) if view.mirrored else (box.x1 - left, box.x2 - left)
    return Box(x1=x1 * across, y1=(box.y1 - top) * down, x2=x2 * across, y2=(box.y2 - top) * down)


def viewer(limits: ViewRange, seed: int) -> Callable[[Sample, int, int], Sample]:
    """A function from (sample, step, place in the step) to the sample with the view of that step and place."""

    def look_at(sample: Sample, step: int, place: int) -> Sample:
        return viewed(sample, np.random.default_rng([seed, step, place]), limits)

    return look_at


def target_in(view: View, task: str, target: Target, size: ImageSize) -> Target:
    """A task's target on a picture of ``size``, as the view shows it."""
    return TASKS[task].move_boxes(target, lambda box: box_in(view, box, size))


def _random_crop(
    size: ImageSize, boxes: Sequence[Box], cut: Sequence[float], place: Sequence[float]
) -> tuple[float, float, float, float]:
    """A crop that takes away the share ``cut`` of width and height, or as much as the boxes allow."""
    x1, x2 = _random_stretch(size.width, [(box.x1, box.x2) for box in boxes], cut[0], place[0])
    y1, y2 = _random_stretch(size.height, [(box.y1, box.y2) for box in boxes], cut[1], place[1])
    return (x1, y1, x2, y2)


def _random_stretch(side: int, taken: Sequence[tuple[float, float]], cut: float, place: float) -> tuple[float, float]:
    """Begin and end of a stretch of [0, side] that holds all of ``taken``."""
    low = min((begin for begin, _ in taken), default=float(side))
    high = max((end for _, end in taken), default=0.0)
    length = max(side * (1.0 - cut), high - low)
    # it may begin anywhere between these
    least, most = max(0.0, high - length), min(low, side - length)
    begin = least + place * max(0.0, most - least)
    return begin, min(float(side), begin + length)
