"""Views: other looks at a picture under which question and answer stay true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from factories import sample
from virft.data.views import ViewRange, box_in, draw_view, look, viewed, viewer
from virft.types import Box, Detection, Detections, ImageSize, Label, Sample, View

SIZE = ImageSize(80, 60)
ALL = ViewRange(zoom=0.6, mirror=True, tones=0.4)


def with_boxes(*boxes: tuple[float, float, float, float]) -> Sample:
    items = tuple(Detection(box=Box(x1=a, y1=b, x2=c, y2=d)) for a, b, c, d in boxes)
    return replace(sample(size=SIZE), target=Detections(items=items))


def painted(box: Box) -> Image.Image:
    """Black, with the box in white."""
    pixels = np.zeros((SIZE.height, SIZE.width, 3), np.uint8)
    pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = 255
    return Image.fromarray(pixels)


@given(
    seed=st.integers(0, 2**32),
    corner=st.tuples(st.integers(0, 70), st.integers(0, 50)),
    extent=st.tuples(st.integers(4, 80), st.integers(4, 60)),
)
def test_boxes_move_with_the_pixels_and_stay_whole(seed: int, corner: tuple[int, int], extent: tuple[int, int]) -> None:
    (x, y), (w, h) = corner, extent
    box = Box(x1=x, y1=y, x2=min(80, x + w), y2=min(60, y + h))
    seen = viewed(with_boxes(box.xyxy), np.random.default_rng(seed), replace(ALL, tones=0.0))
    assert seen.view is not None
    assert isinstance(seen.target, Detections)
    (moved,) = (item.box for item in seen.target.items)
    assert -1e-6 <= moved.x1 < moved.x2 <= 80 + 1e-6
    assert -1e-6 <= moved.y1 < moved.y2 <= 60 + 1e-6
    picture = look(painted(box), seen.view)
    assert picture.size == SIZE
    ys, xs = np.nonzero(np.asarray(picture)[..., 0] > 127)
    found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    # an edge lies within the pixel it is drawn in
    assert np.allclose(found, moved.xyxy, atol=1.5)


def test_a_view_of_nothing_changes_nothing() -> None:
    asked = with_boxes((10, 10, 20, 20))
    seen = viewed(asked, np.random.default_rng(0), ViewRange())
    assert seen == replace(asked, view=View(crop=(0, 0, 80, 60)))
    image = Image.effect_noise((80, 60), 50).convert("RGB")
    assert seen.view is not None
    assert look(image, seen.view).tobytes() == image.tobytes()


def test_views_differ_and_each_is_a_function_of_seed_step_and_place() -> None:
    asked, look_at = with_boxes((10, 10, 20, 20)), viewer(ALL, 7)
    views = {look_at(asked, step, place).view for step in range(5) for place in range(4)}
    assert len(views) == 20
    assert look_at(asked, 3, 2) == viewer(ALL, 7)(asked, 3, 2)
    assert look_at(asked, 3, 2) != viewer(ALL, 8)(asked, 3, 2)


def test_zoom_takes_away_no_more_than_it_says() -> None:
    widths = []
    for seed in range(200):
        view = draw_view(with_boxes(), np.random.default_rng(seed), ViewRange(zoom=0.3))
        widths.append((view.crop[2] - view.crop[0]) / 80)
        assert not view.mirrored
    assert 0.7 <= min(widths) < 0.75
    assert max(widths) > 0.97


@pytest.mark.parametrize(
    "asked",
    [
        replace(sample(size=SIZE), task="grounding", query="the left cat", target=Box(x1=1, y1=2, x2=30, y2=40)),
        replace(with_boxes((1, 2, 30, 40)), question="Where are cats in the left half?"),
    ],
)
def test_words_that_may_name_a_place_forbid_crop_and_mirror(asked: Sample) -> None:
    for seed in range(20):
        seen = viewed(asked, np.random.default_rng(seed), ALL)
        assert seen.view is not None
        assert seen.view.crop == (0, 0, 80, 60)
        assert not seen.view.mirrored
        assert seen.view.contrast != 1
        assert seen.target == asked.target


@pytest.mark.parametrize(
    ("query", "mirrored"), [("left shoe", {False}), ("Right hand", {False}), ("bright lamp", {True, False})]
)
def test_a_class_that_names_a_side_is_not_mirrored(query: str, mirrored: set[bool]) -> None:
    asked = replace(with_boxes((10, 10, 20, 20)), query=query)
    views = [viewed(asked, np.random.default_rng(seed), ALL).view for seed in range(12)]
    assert {view.mirrored for view in views if view is not None} == mirrored


def test_a_class_without_a_box_is_mirrored_but_not_cropped() -> None:
    asked = replace(sample(size=SIZE), task="classification", query="animal", target=Label(text="cat"))
    views = [viewed(asked, np.random.default_rng(seed), ALL).view for seed in range(20)]
    assert {view.crop for view in views if view is not None} == {(0.0, 0.0, 80.0, 60.0)}
    assert {view.mirrored for view in views if view is not None} == {True, False}


def test_tones_leave_the_box_and_change_the_pixels() -> None:
    view = View(crop=(0, 0, 80, 60), saturation=0.0, contrast=1.0, brightness=0.1)
    seen = np.asarray(look(Image.new("RGB", SIZE, (200, 100, 0)), view))
    assert np.ptp(seen[0, 0]) == 0
    assert seen[0, 0, 0] == round(100 + 25.5)
    assert box_in(view, Box(x1=1, y1=2, x2=3, y2=4), SIZE) == Box(x1=1, y1=2, x2=3, y2=4)
