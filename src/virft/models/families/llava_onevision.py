"""LLaVA-OneVision: one image is cut into tiles and comes whole before them; several images come whole only.

Boxes are taught, as 0..1000: how the model was trained to write them is not settled. The data it was trained on has
LLaVA's shares of 1, some of the image and some of the square it was padded to. Source: arXiv 2408.03326, which says
nothing of boxes; haotian-liu/LLaVA, issues 606 and 822.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.modeling_outputs import BaseModelOutputWithPooling

from virft.errors import ModelError
from virft.geometry.boxes import BoxSpace
from virft.models.families.family import Family
from virft.models.families.tiles import plain_positions
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Pieces [pieces, 3, side, side], the whole image first; ``pieces`` [images] and ``size`` [images, 2].

    ``size`` is the image's own height and width: the tower's features of what was padded are thrown away.
    """
    made = processor(images=[list(images)], return_tensors="pt")
    pixels = made["pixel_values"]  # [images, pieces, 3, side, side]
    pieces = torch.full((len(images),), pixels.shape[1])
    return VisionInputs(pixel_values=pixels.flatten(0, 1), per_image={"pieces": pieces, "size": made["image_sizes"]})


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Of all tiles together; of several images, each is one."""
    side = vision.pixel_values.shape[-1]

    def size(pieces: int, own: list[int]) -> ImageSize:
        height, width = (
            (side, side) if pieces == 1 else select_best_resolution(tuple(own), processor.image_grid_pinpoints)
        )
        return ImageSize(width, height)

    return [size(*one) for one in _images(vision)]


def _images(vision: VisionInputs) -> list[tuple[int, list[int]]]:
    """Pieces, height and width of each image."""
    return list(zip(vision.per_image["pieces"].tolist(), vision.per_image["size"].tolist(), strict=True))


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Refused: sizes are those of ``image_grid_pinpoints``, which the model's configuration has too."""
    raise ModelError(
        "model.min_pixels or model.max_pixels is set, but LLaVA-OneVision takes the sizes in image_grid_pinpoints of "
        "config.json and preprocessor_config.json; expected neither"
    )


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Of one image: those of the whole, of its tiles without what was padded, and of the end of each line.

    Of several images: those of the whole, and one for its end. Source: ``pack_image_features`` of transformers.
    """
    side = config.vision_config.image_size // config.vision_config.patch_size
    whole = side * side - (config.vision_feature_select_strategy == "default")
    return [whole + (1 if pieces == 1 else _of_tiles(config, pieces, size, side)) for pieces, size in _images(vision)]


def _of_tiles(config: Any, pieces: int, size: list[int], side: int) -> int:
    best = select_best_resolution(tuple(size), config.image_grid_pinpoints)
    tile = int(config.vision_config.image_size)
    rows, columns = int(best[0]) // tile, int(best[1]) // tile
    if rows * columns + 1 != pieces:
        raise ModelError(
            f"the image processor cut an image into {pieces - 1} tiles, but image_grid_pinpoints of config.json make "
            f"{rows * columns} of it; expected one and the same list in preprocessor_config.json"
        )
    height, width = rows * side, columns * side
    if size[1] / size[0] > width / height:
        height -= (height - int(round(size[0] * (width / size[1]), 7))) // 2 * 2
    else:
        width -= (width - int(round(size[1] * (height / size[0]), 7))) // 2 * 2
    # "anyres_max_9": more than the tokens of nine tiles are scaled down to that
    ratio = math.sqrt(height * width / (int(config.vision_aspect_ratio.removeprefix("anyres_max_")) * side**2))
    if ratio > 1.1:
        height, width = int(height // ratio), int(width // ratio)
    return height * (width + 1)


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """The placeholder, once for every token."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return [token * count for count in num_image_tokens(config, vision)]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """One pass of tower and projector over all pieces."""
    # Told as prompts of one image, which are cut, and of several: which of those belong together does not matter.
    runs = groupby(vision.per_image["pieces"].tolist(), key=lambda pieces: pieces > 1)
    prompts = [count for cut, run in runs for count in ([1] * len(list(run)) if cut else [len(list(run))])]
    made = model.model.get_image_features(
        vision.pixel_values, vision.per_image["size"], batch_num_images=prompts, return_dict=True
    )
    return ImageFeatures(tokens=tuple(made.pooler_output))


def forward_features(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """``mm_encoder_outputs`` as a list of one tensor an image; nothing without images."""
    tokens: Any = [tensor for one in features for tensor in one.tokens]
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=tokens)}} if tokens else {}


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Placeholders of images and videos."""
    return frozenset({config.image_token_id, config.video_token_id})


LLAVA_ONEVISION = Family(
    model_type="llava_onevision",
    box_space=BoxSpace.RELATIVE_1000,
    language_module="model.language_model",
    vision_names=("model.vision_tower.", "model.multi_modal_projector.", "model.image_newline"),
    projector_names=("model.multi_modal_projector.", "model.image_newline"),
    vision_attention="sdpa",
    images_first=True,
    placeholder_id=lambda config: int(config.image_token_id),
    read_images=read_images,
    resized_sizes=resized_sizes,
    limit_pixels=limit_pixels,
    image_texts=image_texts,
    num_image_tokens=num_image_tokens,
    prompt_positions=plain_positions,
    encode_images=encode_images,
    forward_features=forward_features,
    forbidden_token_ids=forbidden_token_ids,
)
