"""LLaVA-OneVision: a single image is cut into tiles, several are not; padding has no tokens."""

from __future__ import annotations

import pytest
import torch

from tiny_folders import striped_image, tiny_chat_model, tiny_image_processor
from virft.errors import ModelError
from virft.models.families import family_of
from virft.models.vision import VisionInputs

FAMILY = family_of("llava_onevision")


def test_an_image_has_fewer_tokens_in_a_sample_of_several() -> None:
    config, processor = tiny_chat_model("llava_onevision").config, tiny_image_processor("llava_onevision")
    one, two = striped_image(48, 12), striped_image(12, 20)
    # 1 x 3 tiles: 4 lines of 12 tokens. 12 / 48 * 12 = 3 lines are the image's; a single line too many stays. 48 are
    # more than the 32 of two tiles: divided by sqrt(48 / 32) = 1.22, 3 lines of 9 and an end. 16 of the whole.
    assert FAMILY.num_image_tokens(config, FAMILY.read_images(processor, [one])) == [16 + 3 * (9 + 1)]
    # the whole and an end
    assert FAMILY.num_image_tokens(config, FAMILY.read_images(processor, [one, two])) == [17, 17]


def test_pixel_budgets_are_refused() -> None:
    with pytest.raises(ModelError, match="takes the sizes in image_grid_pinpoints of"):
        FAMILY.limit_pixels(tiny_image_processor("llava_onevision"), None, 10_000)


def test_a_processor_with_other_tiles_than_the_config_is_refused() -> None:
    config = tiny_chat_model("llava_onevision").config
    config.image_grid_pinpoints = [[16, 32]]
    cut = {"pieces": torch.tensor([4]), "size": torch.tensor([[12, 48]])}
    with pytest.raises(ModelError, match=r"cut an image into 3 tiles, but image_grid_pinpoints .* make 2 of it"):
        FAMILY.num_image_tokens(config, VisionInputs(pixel_values=torch.zeros(4, 3, 16, 16), per_image=cut))
