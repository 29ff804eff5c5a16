"""Functions of Gemma 3: every image is scaled to one square.

Tokens of one image attend to each other in both directions, and most layers have a sliding window. Boxes are taught, as
0..1000: the Gemma 3 report (arXiv 2503.19786) names no format of boxes, and the tokenizer has none of PaliGemma's
location tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from virft.errors import ModelError
from virft.models.checkpoint_checks import require_equal
from virft.models.families.tiles import by_image, meta_tiles, sides_of
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Run the image processor.

    Returns pixels float32 [images, 3, side, side] and ``pieces`` int64 [images], 1 each.
    """
    # "Pan and scan" cuts an image into several crops. Transformers leaves it off too, whatever the folder's file says.
    made = processor(images=list(images), return_tensors="pt", do_pan_and_scan=False)
    return VisionInputs(
        pixel_values=made["pixel_values"], per_image={"pieces": torch.ones(len(images), dtype=torch.long)}
    )


def measure_images(processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
    """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device."""
    pixels = meta_tiles(len(sizes), _side(processor))
    return VisionInputs(pixel_values=pixels, per_image={"pieces": torch.ones(len(sizes), dtype=torch.long)})


def _side(processor: Any) -> tuple[int, int]:
    """Return height and width of an image after resizing."""
    return int(processor.size["height"]), int(processor.size["width"])


def check_processor(processor: Any, config: Any, path: str) -> None:
    """Raise ``ModelError`` if images have another size than the input of the tower."""
    require_equal(path, size=(_side(processor), sides_of(config.vision_config.image_size)))


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Return the size of each image after resizing, in pixels: the same for all."""
    height, width = vision.pixel_values.shape[-2:]
    return [ImageSize(width, height)] * vision.num_images


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Raise ``ModelError``: there is one size only."""
    raise ModelError(
        "model.min_pixels or model.max_pixels is set, but Gemma 3 scales every image to "
        f"{processor.size['width']} x {processor.size['height']}; expected neither"
    )


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Return the language-model tokens of each image: the same for all."""
    return [int(config.mm_tokens_per_image)] * vision.num_images


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """Return the text of each image: tokens between two markers, as a paragraph. Source: ``Gemma3Processor``."""
    ids = (config.boi_token_id, config.image_token_id, config.eoi_token_id)
    start, token, end = (tokenizer.convert_ids_to_tokens(one) for one in ids)
    return [f"\n\n{start}{token * count}{end}\n\n" for count in num_image_tokens(config, vision)]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """Run tower and projector once over all images: features [image tokens, hidden] of each."""
    made = model.model.get_image_features(vision.pixel_values, return_dict=True)
    return by_image(made.pooler_output, vision.per_image["pieces"])


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the image token and the markers around images."""
    return frozenset({config.image_token_id, config.boi_token_id, config.eoi_token_id})
