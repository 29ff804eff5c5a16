"""Data augmentation: changed images under which question and ground truth stay correct."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from factories import box, sample
from virft.data.augmentation import (
    AugmentationLimits,
    augment_box,
    augment_image,
    augment_polygon,
    augment_sample,
    draw_augmentation,
    make_augmenter,
    original_box,
)
from virft.types import Augmentation, Box, Detection, Detections, ImageSize, Label, Sample

SIZE = ImageSize(80, 60)
ALL = AugmentationLimits(resized_crop=0.6, horizontal_flip=True, colour_jitter=0.4)


def with_boxes(*boxes: tuple[float, float, float, float]) -> Sample:
    items = tuple(Detection(box=Box(x1=a, y1=b, x2=c, y2=d)) for a, b, c, d in boxes)
    return replace(sample(size=SIZE), target=Detections(items=items))


def draw_box(box: Box) -> Image.Image:
    """A black image with the box in white."""
    pixels = np.zeros((SIZE.height, SIZE.width, 3), np.uint8)
    pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = 255
    return Image.fromarray(pixels)


def augmentations_of(original: Sample, number: int) -> list[Augmentation]:
    return [draw_augmentation(original, np.random.default_rng(seed), ALL) for seed in range(number)]


@given(
    seed=st.integers(0, 2**32),
    corner=st.tuples(st.integers(0, 70), st.integers(0, 50)),
    extent=st.tuples(st.integers(4, 80), st.integers(4, 60)),
)
def test_boxes_move_with_the_pixels_and_are_not_cut(
    seed: int, corner: tuple[int, int], extent: tuple[int, int]
) -> None:
    (x, y), (w, h) = corner, extent
    box = Box(x1=x, y1=y, x2=min(80, x + w), y2=min(60, y + h))
    augmented = augment_sample(with_boxes(box.xyxy), np.random.default_rng(seed), replace(ALL, colour_jitter=0.0))
    assert augmented.augmentation is not None
    assert isinstance(augmented.target, Detections)
    (moved,) = (item.box for item in augmented.target.items)
    assert -1e-6 <= moved.x1 < moved.x2 <= 80 + 1e-6
    assert -1e-6 <= moved.y1 < moved.y2 <= 60 + 1e-6
    image = augment_image(draw_box(box), augmented.augmentation)
    assert image.size == SIZE
    ys, xs = np.nonzero(np.asarray(image)[..., 0] > 127)
    found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    # an edge lies within the pixel that it is drawn in
    assert np.allclose(found, moved.xyxy, atol=1.5)


def test_without_limits_nothing_changes() -> None:
    original = with_boxes((10, 10, 20, 20))
    augmented = augment_sample(original, np.random.default_rng(0), AugmentationLimits())
    assert augmented == replace(original, augmentation=Augmentation(crop=(0, 0, 80, 60)))
    image = Image.effect_noise((80, 60), 50).convert("RGB")
    assert augmented.augmentation is not None
    assert augment_image(image, augmented.augmentation).tobytes() == image.tobytes()


def test_augmentations_differ_and_each_is_a_function_of_seed_step_and_index() -> None:
    original, augment = with_boxes((10, 10, 20, 20)), make_augmenter(ALL, 7)
    found = {augment(original, step, index).augmentation for step in range(5) for index in range(4)}
    assert len(found) == 20
    assert augment(original, 3, 2) == make_augmenter(ALL, 7)(original, 3, 2)
    assert augment(original, 3, 2) != make_augmenter(ALL, 8)(original, 3, 2)


def test_a_box_is_moved_back_to_the_original_image() -> None:
    size, inner = ImageSize(64, 48), box(10.5, 10, 30, 40)
    for crop in ((0.0, 0.0, 64.0, 48.0), (10.0, 5.0, 50.0, 41.0)):
        for horizontal_flip in (False, True):
            augmentation = Augmentation(crop=crop, horizontal_flip=horizontal_flip)
            back = original_box(augmentation, augment_box(augmentation, inner, size), size)
            assert back.xyxy == pytest.approx(inner.xyxy)
            polygon = augment_polygon(augmentation, (10.5, 10, 30, 10, 30, 40), size)
            x1, y1, x2, y2 = augment_box(augmentation, inner, size).xyxy
            first, second = (x2, x1) if horizontal_flip else (x1, x2)
            assert polygon == pytest.approx((first, y1, second, y1, second, y2))


def test_a_crop_removes_at_most_its_limit() -> None:
    widths = []
    for seed in range(200):
        found = draw_augmentation(with_boxes(), np.random.default_rng(seed), AugmentationLimits(resized_crop=0.3))
        widths.append((found.crop[2] - found.crop[0]) / 80)
        assert not found.horizontal_flip
    assert 0.7 <= min(widths) < 0.75
    assert max(widths) > 0.97


@pytest.mark.parametrize(
    "original",
    [
        replace(sample(size=SIZE), task="grounding", query="the left cat", target=Box(x1=1, y1=2, x2=30, y2=40)),
        replace(with_boxes((1, 2, 30, 40)), question="Where are cats in the left half?"),
        replace(with_boxes((1, 2, 30, 40)), query="cat in column 1 of 2", region=Box(x1=0, y1=0, x2=40, y2=60)),
    ],
)
def test_a_text_that_may_name_a_place_is_neither_cropped_nor_flipped(original: Sample) -> None:
    for seed in range(20):
        augmented = augment_sample(original, np.random.default_rng(seed), ALL)
        assert augmented.augmentation is not None
        assert augmented.augmentation.crop == (0, 0, 80, 60)
        assert not augmented.augmentation.horizontal_flip
        assert augmented.augmentation.contrast != 1
        assert augmented.target == original.target


@pytest.mark.parametrize(
    ("query", "flips"), [("left shoe", {False}), ("Right hand", {False}), ("bright lamp", {True, False})]
)
def test_a_class_that_names_a_side_is_not_flipped(query: str, flips: set[bool]) -> None:
    original = replace(with_boxes((10, 10, 20, 20)), query=query)
    assert {one.horizontal_flip for one in augmentations_of(original, 12)} == flips


def test_a_class_without_a_box_is_flipped_but_not_cropped() -> None:
    original = replace(sample(size=SIZE), task="classification", query="animal", target=Label(text="cat"))
    found = augmentations_of(original, 20)
    assert {one.crop for one in found} == {(0.0, 0.0, 80.0, 60.0)}
    assert {one.horizontal_flip for one in found} == {True, False}


def test_colour_jitter_changes_pixels_but_not_boxes() -> None:
    augmentation = Augmentation(crop=(0, 0, 80, 60), saturation=0.0, contrast=1.0, brightness=0.1)
    pixels = np.asarray(augment_image(Image.new("RGB", SIZE, (200, 100, 0)), augmentation))
    assert np.ptp(pixels[0, 0]) == 0
    assert pixels[0, 0, 0] == round(100 + 25.5)
    assert augment_box(augmentation, Box(x1=1, y1=2, x2=3, y2=4), SIZE) == Box(x1=1, y1=2, x2=3, y2=4)
