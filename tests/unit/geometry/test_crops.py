"""Regions that are enlarged for a zoom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from virft.geometry.crops import MAX_ASPECT, region_around, zoom_region, zoomed_size
from virft.types import Box, ImageSize

SIDES = st.integers(1, 3000)


@st.composite
def boxes_in_images(draw: st.DrawFn) -> tuple[Box, ImageSize]:
    image = ImageSize(draw(SIDES), draw(SIDES))

    def interval(side: int) -> tuple[float, float]:
        ends = sorted(draw(st.tuples(*[st.floats(0, 1)] * 2)))
        low = min(ends[0], 0.999) * side
        return low, min(side, max(ends[1] * side, low + 1e-3))

    (x1, x2), (y1, y2) = interval(image.width), interval(image.height)
    return Box(x1=x1, y1=y1, x2=x2, y2=y2), image


@given(boxes_in_images())
def test_a_region_is_whole_pixels_of_the_image_that_contain_the_box(case: tuple[Box, ImageSize]) -> None:
    box, image = case
    region = zoom_region(box, image)
    assert all(value == int(value) for value in region.xyxy)
    assert 0 <= region.x1 <= box.x1 and box.x2 <= region.x2 <= image.width
    assert 0 <= region.y1 <= box.y1 and box.y2 <= region.y2 <= image.height
    sides = (region.x2 - region.x1, region.y2 - region.y1)
    # thin regions are widened as far as the image allows
    assert max(sides) <= MAX_ASPECT * min(sides) or min(sides) in image


@given(boxes_in_images(), st.tuples(SIDES, SIDES))
def test_the_scaled_region_fits_into_the_size_of_the_whole_image(
    case: tuple[Box, ImageSize], sides: tuple[int, int]
) -> None:
    resized = ImageSize(*sides)
    size = zoomed_size(zoom_region(*case), resized)
    assert 1 <= size.width <= resized.width and 1 <= size.height <= resized.height
    assert size.width == resized.width or size.height == resized.height


def test_a_wide_box_grows_around_its_centre_and_stays_in_the_image() -> None:
    image = ImageSize(100, 100)
    assert zoom_region(Box(x1=10, y1=50, x2=50, y2=52), image).xyxy == (10, 46, 50, 56)
    assert zoom_region(Box(x1=10, y1=0, x2=50, y2=2), image).xyxy == (10, 0, 50, 10)
    assert zoom_region(Box(x1=99, y1=20, x2=100, y2=60), image).xyxy == (90, 20, 100, 60)


@given(boxes_in_images(), st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3))
def test_the_region_of_a_supervised_call_contains_the_boxes_and_at_most_half_of_each_side(
    case: tuple[Box, ImageSize], numbers: tuple[float, float, float]
) -> None:
    box, image = case
    region = region_around([box], image, numbers)
    if region is None:
        return
    tolerance = 1e-9 * max(image)
    assert region.x1 - tolerance <= box.x1 and box.x2 <= region.x2 + tolerance
    assert region.y1 - tolerance <= box.y1 and box.y2 <= region.y2 + tolerance
    assert -tolerance <= region.x1 and region.x2 <= image.width + tolerance
    assert -tolerance <= region.y1 and region.y2 <= image.height + tolerance
    assert region.x2 - region.x1 <= min(image) / 2 + tolerance


def test_only_small_boxes_get_a_supervised_call() -> None:
    image, numbers = ImageSize(100, 100), (0.5, 0.5, 0.5)
    assert region_around([], image, numbers) is None
    assert region_around([Box(x1=0, y1=0, x2=60, y2=10)], image, numbers) is None
    # two small boxes far from each other
    assert region_around([Box(x1=i, y1=0, x2=i + 5, y2=5) for i in (0, 90)], image, numbers) is None
    assert region_around([Box(x1=50, y1=50, x2=52, y2=52)], image, numbers) == Box(
        x1=44.75, y1=44.75, x2=57.25, y2=57.25
    )
