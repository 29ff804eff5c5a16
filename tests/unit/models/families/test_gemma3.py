"""Gemma 3: one image size, bidirectional attention inside images, sliding windows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plain_computation import make_groups, make_pair, shared_logprobs
from tiny_folders import striped_image, tiny_image_processor
from virft.errors import ModelError
from virft.models.attention.layout import pack_row
from virft.models.families import family_of
from virft.types import ImageSize

FAMILY = family_of("gemma3")


def test_causal_attention_inside_images_gives_other_numbers() -> None:
    # otherwise the parity tests could not detect a causal mask
    _, policy = make_pair("gemma3")
    groups = make_groups(policy.config)
    with torch.no_grad():
        expected = shared_logprobs(policy, groups)
        policy.family = replace(policy.family, bidirectional_images=False)
        causal = shared_logprobs(policy, groups)
    assert (expected - causal).abs().max() > 0.05


def test_a_wider_window_gives_other_numbers() -> None:
    _, policy = make_pair("gemma3")
    groups = make_groups(policy.config)
    # a prompt of one image of 4 tokens, two markers, 3 + 5 words
    assert policy.config.text_config.sliding_window == 5 < len(groups[0][0]) == 14
    with torch.no_grad():
        expected = shared_logprobs(policy, groups)
        for layer in policy.model.model.language_model.layers:
            layer.self_attn.sliding_window = None
        wide = shared_logprobs(policy, groups)
    assert (expected - wide).abs().max() > 0.05


def test_images_are_numbered_within_their_prompt() -> None:
    image = 90
    prompts = [[1, image, image, 2, image], [image, 3]]
    row = pack_row(prompts, [torch.arange(len(one))[None] for one in prompts], [[[7, 8]], [[9]]])
    layout = row.layout.with_image_blocks(row.token_ids == image)
    assert layout.image_blocks is not None
    # padding of the second prompt, of two tokens, is of no image
    assert layout.image_blocks.tolist() == [[-1, 0, 0, -1, 1], [0, -1, -1, -1, -1]]
    moved = layout.to(torch.device("meta")).image_blocks
    assert moved is not None and moved.device.type == "meta"


def test_every_image_has_one_size() -> None:
    processor = tiny_image_processor("gemma3")
    processor.do_pan_and_scan = True  # the processor of transformers leaves it off as well
    vision = FAMILY.read_images(processor, [striped_image(90, 20), striped_image(20, 20)])
    assert FAMILY.resized_sizes(processor, vision) == [ImageSize(16, 16)] * 2
    assert vision.pixel_values.shape == (2, 3, 16, 16)


def test_pixel_budgets_are_refused() -> None:
    with pytest.raises(ModelError, match="Gemma 3 scales every image to 16 x 16; expected neither"):
        FAMILY.limit_pixels(tiny_image_processor("gemma3"), 100, None)
