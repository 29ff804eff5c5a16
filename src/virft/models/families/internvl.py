"""InternVL 3 in the format of transformers: an image is cut into square tiles, and comes once more as a thumbnail.

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
from virft.geometry.boxes import BoxSpace
from virft.models.families.family import Family
from virft.models.families.tiles import by_image, ids_of, one_tensor, plain_positions
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize

_START, _END = "<img>", "</img>"


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Pieces [tiles and thumbnails, 3, side, side]; ``tiles`` [images, 2]: columns, rows; no thumbnail of 1 x 1."""
    # InternVLProcessor cuts, whatever the image processor's own file says.
    made = processor(images=list(images), return_tensors="pt", crop_to_patches=True)
    side = (processor.size["height"], processor.size["width"])
    bounds = (processor.min_patches, processor.max_patches)
    tiles = [get_optimal_tiled_canvas((one.height, one.width), side, *bounds) for one in images]
    return VisionInputs(pixel_values=made["pixel_values"], per_image={"tiles": torch.tensor(tiles)})


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Of all tiles of each image together."""
    side = vision.pixel_values.shape[-1]
    return [ImageSize(columns * side, rows * side) for columns, rows in vision.per_image["tiles"].tolist()]


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """As many tiles as fit into the two areas; the thumbnail comes on top."""
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
    """Tiles, the thumbnail among them, times the tokens of a tile."""
    each = _tokens_of_a_piece(config, vision)
    return [count * each for count in _num_pieces(vision).tolist()]


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """All tiles in a row, between two markers. Source: ``InternVLProcessor`` of transformers."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return [f"{_START}{token * count}{_END}" for count in num_image_tokens(config, vision)]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """One pass of tower and projector over all tiles."""
    made = model.model.get_image_features(
        vision.pixel_values,
        vision_feature_layer=model.config.vision_feature_layer,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        return_dict=True,
    )
    return by_image(made.pooler_output, _num_pieces(vision))


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """The placeholder, the markers around it, and the placeholder of videos."""
    return ids_of(tokenizer, [_START, _END, "<video>"]) | {config.image_token_id}


INTERNVL = Family(
    model_type="internvl",
    box_space=BoxSpace.RELATIVE_1000,
    language_module="model.language_model",
    vision_names=("model.vision_tower.", "model.multi_modal_projector."),
    projector_names=("model.multi_modal_projector.",),
    vision_attention="sdpa",
    placeholder_id=lambda config: int(config.image_token_id),
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
