"""Functions of InternVL 3 in the format of transformers: an image is cut into square tiles, followed by a thumbnail.

Boxes are 0..1000 of width and height. Source: InternVL's "Chat Data Format", section on grounding and detection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from virft.errors import ModelError
from virft.models.checkpoint_checks import require_equal
from virft.models.families.tiles import by_image, ids_of, meta_tiles, sides_of
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize

_START, _END = "<img>", "</img>"


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Run the image processor.

    Returns pixels float32 [tiles and thumbnails, 3, side, side] and ``tiles`` int64 [images, 2]: columns and rows. An
    image of one tile has no thumbnail.
    """
    # InternVLProcessor of transformers cuts images, whatever the image processor's own file says.
    made = processor(images=list(images), return_tensors="pt", crop_to_patches=True)
    tiles = _tiles(processor, [ImageSize(*one.size) for one in images])
    return VisionInputs(pixel_values=made["pixel_values"], per_image={"tiles": tiles})


def measure_images(processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
    """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device."""
    tiles = _tiles(processor, sizes)
    empty = VisionInputs(pixel_values=meta_tiles(0, _side(processor)), per_image={"tiles": tiles})
    pixels = meta_tiles(int(_num_pieces(empty).sum()), _side(processor))
    return VisionInputs(pixel_values=pixels, per_image={"tiles": tiles})


def _side(processor: Any) -> tuple[int, int]:
    """Return height and width of a tile."""
    return int(processor.size["height"]), int(processor.size["width"])


def _tiles(processor: Any, sizes: Sequence[ImageSize]) -> Tensor:
    """Return columns and rows of tiles of each image, int64 [images, 2]."""
    bounds = (processor.min_patches, processor.max_patches)
    return torch.tensor([get_optimal_tiled_canvas((one.height, one.width), _side(processor), *bounds) for one in sizes])


def check_processor(processor: Any, config: Any, path: str) -> None:
    """Raise ``ModelError`` if tiles have another size than the input of the tower."""
    require_equal(path, size=(_side(processor), sides_of(config.vision_config.image_size)))


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Return the size of each image after resizing, in pixels: that of all its tiles together."""
    side = vision.pixel_values.shape[-1]
    return [ImageSize(columns * side, rows * side) for columns, rows in vision.per_image["tiles"].tolist()]


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Set the smallest and the largest number of tiles to those that fit into the two areas, in pixels.

    The thumbnail is added to them. Raises ``ModelError`` if ``high`` is less than one tile, or if ``low`` takes more
    tiles than an image may have.
    """
    tile = processor.size["height"] * processor.size["width"]
    if high is not None and high < tile:
        raise ModelError(f"model.max_pixels is {high}; expected at least {tile}, one tile of this model")
    largest = processor.max_patches if high is None else high // tile
    smallest = processor.min_patches if low is None else -(-low // tile)
    if smallest > largest:
        raise ModelError(
            f"model.min_pixels is {low}, which takes {smallest} tiles of {tile} pixels, "
            f"but images have at most {largest}; expected at most {largest * tile}"
        )
    processor.min_patches, processor.max_patches = smallest, largest


def _num_pieces(vision: VisionInputs) -> Tensor:
    tiles = vision.per_image["tiles"].prod(-1)
    return tiles + (tiles > 1)


def _tokens_of_a_piece(config: Any, vision: VisionInputs) -> int:
    height, width = (
        int(side) // patch
        for side, patch in zip(vision.pixel_values.shape[-2:], config.vision_config.patch_size, strict=True)
    )
    return int(height * width * config.downsample_ratio**2)


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Return the language-model tokens of each image: tiles, the thumbnail included, times tokens of a tile."""
    each = _tokens_of_a_piece(config, vision)
    return [count * each for count in _num_pieces(vision).tolist()]


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """Return the text of each image: all its tokens between two markers. Source: ``InternVLProcessor``."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return [f"{_START}{token * count}{_END}" for count in num_image_tokens(config, vision)]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """Run tower and projector once over all tiles: features [image tokens, hidden] of each image."""
    made = model.model.get_image_features(
        vision.pixel_values,
        vision_feature_layer=model.config.vision_feature_layer,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        return_dict=True,
    )
    return by_image(made.pooler_output, _num_pieces(vision))


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the placeholder, the markers around it, and the placeholder of videos."""
    return ids_of(tokenizer, [_START, _END, "<video>"]) | {config.image_token_id}
