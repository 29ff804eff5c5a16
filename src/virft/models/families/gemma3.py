"""Gemma 3: every image is scaled to one square; its tokens see one another both ways, and most layers have a window.

Boxes are taught, as 0..1000. Source: the Gemma 3 report (arXiv 2503.19786) names no format of boxes, and the tokenizer
has none of PaliGemma's location tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from virft.errors import ModelError
from virft.geometry.boxes import BoxSpace
from virft.models.families.family import Family
from virft.models.families.tiles import by_image, one_tensor, plain_positions
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Images [images, 3, side, side]; ``pieces`` [images], 1 each: "pan and scan" is for inference only, and off."""
    made = processor(images=list(images), return_tensors="pt", do_pan_and_scan=False)
    return VisionInputs(
        pixel_values=made["pixel_values"], per_image={"pieces": torch.ones(len(images), dtype=torch.long)}
    )


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """The same for all."""
    height, width = vision.pixel_values.shape[-2:]
    return [ImageSize(width, height)] * vision.num_images


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Refused: there is one size."""
    raise ModelError(
        "model.min_pixels or model.max_pixels is set, but Gemma 3 scales every image to "
        f"{processor.size['width']} x {processor.size['height']}; expected neither"
    )


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """The same for all."""
    return [int(config.mm_tokens_per_image)] * vision.num_images


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """Between two markers, in a paragraph of its own. Source: ``Gemma3Processor`` of transformers."""
    ids = (config.boi_token_id, config.image_token_id, config.eoi_token_id)
    start, token, end = (tokenizer.convert_ids_to_tokens(one) for one in ids)
    return [f"\n\n{start}{token * count}{end}\n\n" for count in num_image_tokens(config, vision)]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """One pass of tower and projector over all images."""
    made = model.model.get_image_features(vision.pixel_values, return_dict=True)
    return by_image(made.pooler_output, vision.per_image["pieces"])


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """The token of images and the markers around them."""
    return frozenset({config.image_token_id, config.boi_token_id, config.eoi_token_id})


GEMMA3 = Family(
    model_type="gemma3",
    box_space=BoxSpace.RELATIVE_1000,
    language_module="model.language_model",
    vision_names=("model.vision_tower.", "model.multi_modal_projector."),
    projector_names=("model.multi_modal_projector.",),
    vision_attention="sdpa",
    two_way_images=True,
    placeholder_id=lambda config: int(config.boi_token_id),
    read_images=read_images,
    resized_sizes=resized_sizes,
    limit_pixels=limit_pixels,
    image_texts=image_texts,
    num_image_tokens=num_image_tokens,
    prompt_positions=plain_positions,
    encode_images=encode_images,
    forward_features=one_tensor,
    forbidden_token_ids=forbidden_token_ids,
)
