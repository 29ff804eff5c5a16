"""Functions of Gemma 4 (E2B, E4B): images of any aspect ratio, of at most a number of tokens.

Some layers use the keys and values of an earlier one, logits are soft-capped, and each layer adds embeddings of its
own. Models whose layers differ in their number of KV heads are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from virft.errors import ModelError
from virft.models.checkpoint_checks import require_equal
from virft.models.families.qwen import forward_features
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize

__all__ = [
    "check_processor",
    "encode_images",
    "forbidden_token_ids",
    "forward_features",
    "image_texts",
    "limit_pixels",
    "measure_images",
    "num_image_tokens",
    "read_images",
    "resized_sizes",
]

_TOKENS = (70, 140, 280, 560, 1120)
"""Largest numbers of tokens of an image that the image processor takes. Source: Gemma 4 in transformers."""


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Run the image processor.

    Returns pixels float32 [images, patches, patch values], padded to the same number of patches, and ``places`` int64
    [images, patches, 2]: column and row of each patch, -1 for padding.
    """
    made = processor(images=list(images), return_tensors="pt")
    return VisionInputs(pixel_values=made["pixel_values"], per_image={"places": made["image_position_ids"]})


def measure_images(processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
    """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device."""
    side, pooled = processor.patch_size, processor.pooling_kernel_size
    patches = processor.max_soft_tokens * pooled**2
    places = torch.full((len(sizes), patches, 2), -1)
    for number, size in enumerate(sizes):
        height, width = get_aspect_ratio_preserving_size(size.height, size.width, side, patches, pooled)
        rows, columns = torch.meshgrid(torch.arange(height // side), torch.arange(width // side), indexing="ij")
        places[number, : rows.numel()] = torch.stack([columns.flatten(), rows.flatten()], -1)
    pixels = torch.empty((len(sizes), patches, 3 * side**2), device="meta")
    return VisionInputs(pixel_values=pixels, per_image={"places": places})


def check_processor(processor: Any, config: Any, path: str) -> None:
    """Raise ``ModelError`` if patches have another size than the tower's, and for models that are not supported."""
    tower, text = config.vision_config, config.get_text_config()
    require_equal(
        path,
        patch_size=(processor.patch_size, tower.patch_size),
        pooling_kernel_size=(processor.pooling_kernel_size, tower.pooling_kernel_size),
    )
    heads = sorted({layer.num_key_value_heads for layer in text.per_layer_config})
    if len(heads) > 1 or text.use_bidirectional_attention is not None or text.enable_moe_block:
        # The KV cache and the layout of a row have one number of KV heads and one kind of attention for all layers.
        raise ModelError(
            f"{path}: layers of this Gemma 4 have {' and '.join(map(str, heads))} KV heads, bidirectional attention "
            f"{text.use_bidirectional_attention} and {'' if text.enable_moe_block else 'no '}experts; expected one "
            "number of KV heads, causal attention and no experts, as in E2B and E4B"
        )


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Return the size of each image after the image processor, in pixels: patches times their size."""
    sides = (vision.per_image["places"].amax(1) + 1) * processor.patch_size
    return [ImageSize(width, height) for width, height in sides.tolist()]


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Set the largest number of tokens of an image to that of ``high`` pixels; None retains the model's own.

    Every image is scaled, with its aspect ratio, until it has about this number. Raises ``ModelError`` for ``low``, and
    for fewer pixels than the smallest number of tokens has.
    """
    if low is not None:
        raise ModelError(
            "model.min_pixels is set, but Gemma 4 scales every image to one area; expected max_pixels only"
        )
    if high is None:
        return
    area = (processor.pooling_kernel_size * processor.patch_size) ** 2
    fitting = [tokens for tokens in _TOKENS if tokens * area <= high]
    if not fitting:
        raise ModelError(
            f"model.max_pixels is {high}; expected at least {_TOKENS[0] * area}, {_TOKENS[0]} image tokens"
        )
    processor.max_soft_tokens = fitting[-1]


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Return the language-model tokens of each image: patches / pooling_kernel_size^2."""
    patches = (vision.per_image["places"][..., 0] >= 0).sum(1)
    return [count // config.vision_config.pooling_kernel_size**2 for count in patches.tolist()]


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """Return the text of each image: tokens between two markers. Source: ``Gemma4Processor``."""
    ids = (config.boi_token_id, config.image_token_id, config.eoi_token_id)
    start, token, end = (tokenizer.convert_ids_to_tokens(one) for one in ids)
    return [f"{start}{token * count}{end}" for count in num_image_tokens(config, vision)]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """Run tower and projector once over all images: features [image tokens, hidden] of each."""
    made = model.model.get_image_features(vision.pixel_values, vision.per_image["places"], return_dict=True)
    return ImageFeatures(tokens=tuple(made.pooler_output))


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the placeholders of images, videos and sounds, and the markers around them."""
    names = ("image_token_id", "video_token_id", "audio_token_id", "boi_token_id", "eoi_token_id", "boa_token_id")
    found = [getattr(config, name) for name in (*names, "eoa_token_index")]
    return frozenset(int(token) for token in found if token is not None)
