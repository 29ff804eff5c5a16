"""InternVL: pixel budgets become numbers of tiles."""

from __future__ import annotations

import pytest

from tiny_folders import striped_image, tiny_image_processor
from virft.errors import ModelError
from virft.models.families import family_of

FAMILY = family_of("internvl")


# tiles of 16 x 16 = 256 pixels
@pytest.mark.parametrize(("low", "high", "bounds"), [(None, 1024, (1, 4)), (300, 1300, (2, 5)), (512, None, (2, 6))])
def test_a_budget_is_as_many_tiles_as_fit(low: int | None, high: int | None, bounds: tuple[int, int]) -> None:
    processor = tiny_image_processor("internvl")
    FAMILY.limit_pixels(processor, low, high)
    assert (processor.min_patches, processor.max_patches) == bounds
    for size in ((90, 60), (30, 90), (16, 16)):
        vision = FAMILY.read_images(processor, [striped_image(*size)])
        (seen,) = FAMILY.resized_sizes(processor, vision)
        tiles = seen.width * seen.height // 256
        assert bounds[0] <= tiles <= bounds[1]
        # the thumbnail on top, unless there is one tile
        assert len(vision.pixel_values) == tiles + (tiles > 1)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (None, 255, "model.max_pixels is 255; expected at least 256, one tile of this model"),
        (1100, 1279, "model.min_pixels is 1100, which takes 5 tiles of 256 pixels, but images have at most 4"),
        (1800, None, "model.min_pixels is 1800, which takes 8 tiles of 256 pixels, but .* expected at most 1536"),
    ],
)
def test_impossible_pixel_budgets_are_refused(low: int | None, high: int | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FAMILY.limit_pixels(tiny_image_processor("internvl"), low, high)
