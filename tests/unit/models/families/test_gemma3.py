"""Gemma 3: one size, images seen both ways, windows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plain_computation import make_groups, make_pair, shared_logprobs
from tiny_folders import picture, tiny_image_processor
from virft.errors import ModelError
from virft.models.attention.layout import pack_row
from virft.models.families import family_of
from virft.types import ImageSize

FAMILY = family_of("gemma3")


def test_images_seen_one_way_only_would_give_other_numbers() -> None:
    # otherwise the tests of exactness say nothing of it
    _, policy = make_pair("gemma3")
    groups = make_groups(policy.config)
    with torch.no_grad():
        right = shared_logprobs(policy, groups)
        policy.family = replace(policy.family, bidirectional_images=False)
        causal = shared_logprobs(policy, groups)
    assert (right - causal).abs().max() > 0.05


def test_a_wider_window_would_give_other_numbers() -> None:
    _, policy = make_pair("gemma3")
    groups = make_groups(policy.config)
    # a prompt of one image of 4 tokens, two markers, 3 + 5 words
    assert policy.config.text_config.sliding_window == 5 < len(groups[0][0]) == 14
    with torch.no_grad():
        right = shared_logprobs(policy, groups)
        for layer in policy.model.model.language_model.layers:
            layer.self_attn.sliding_window = None
        wide = shared_logprobs(policy, groups)
    assert (right - wide).abs().max() > 0.05


def test_images_are_numbered_within_their_prompt() -> None:
    image = 90
    prompts = [[1, image, image, 2, image], [image, 3]]
    row = pack_row(prompts, [torch.arange(len(one))[None] for one in prompts], [[[7, 8]], [[9]]])
    layout = row.layout.with_image_blocks(row.token_ids == image)
    assert layout.image_blocks is not None
    # the places behind the second prompt's two tokens are of no image
    assert layout.image_blocks.tolist() == [[-1, 0, 0, -1, 1], [0, -1, -1, -1, -1]]
    moved = layout.to(torch.device("meta")).image_blocks
    assert moved is not None and moved.device.type == "meta"


def test_every_image_has_one_size() -> None:
    processor = tiny_image_processor("gemma3")
    processor.do_pan_and_scan = True  # the processor of transformers leaves it off as well
    vision = FAMILY.read_images(processor, [picture(90, 20), picture(20, 20)])
    assert FAMILY.resized_sizes(processor, vision) == [ImageSize(16, 16)] * 2
    assert vision.pixel_values.shape == (2, 3, 16, 16)


def test_pixel_budgets_are_refused() -> None:
    with pytest.raises(ModelError, match="Gemma 3 scales every image to 16 x 16; expected neither"):
        FAMILY.limit_pixels(tiny_image_processor("gemma3"), 100, None)
