"""SmolVLM and Idefics3: pixel budgets become a longest edge of whole tiles."""

from __future__ import annotations

import pytest

from tiny_folders import striped_image, tiny_image_processor
from virft.errors import ModelError
from virft.models.families import family_of
from virft.types import ImageSize

FAMILY = family_of("smolvlm")


# tiles of 16 x 16: 48 x 48 = 2304 pixels are 3 x 3 of them, 2303 only 2 x 2
@pytest.mark.parametrize(("limit", "edge"), [(2304, 48), (2303, 32), (1024, 32), (256, 16), (10**6, 96)])
def test_the_longest_edge_is_as_many_tiles_as_the_budget_holds(limit: int, edge: int) -> None:
    processor = tiny_image_processor("smolvlm")
    FAMILY.limit_pixels(processor, None, limit)
    for size in ((90, 60), (60, 90), (33, 31)):
        vision = FAMILY.read_images(processor, [striped_image(*size)])
        (seen,) = FAMILY.resized_sizes(processor, vision)
        assert seen.width * seen.height <= limit
        assert max(seen) == edge
        # all tiles, and the whole image if there are several
        tiles = seen.width * seen.height // 256
        assert len(vision.pixel_values) == tiles + (tiles > 1)


def test_an_image_in_one_piece_is_as_large_as_a_tile() -> None:
    processor = tiny_image_processor("smolvlm")
    FAMILY.limit_pixels(processor, None, 256)
    vision = FAMILY.read_images(processor, [striped_image(90, 60)])
    assert FAMILY.resized_sizes(processor, vision) == [ImageSize(16, 16)]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (None, 255, "model.max_pixels is 255; expected at least 256, one tile of this model"),
        (100, 1000, "model.min_pixels is set, but this family scales every image to one longest edge"),
    ],
)
def test_impossible_pixel_budgets_are_refused(low: int | None, high: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FAMILY.limit_pixels(tiny_image_processor("smolvlm"), low, high)
