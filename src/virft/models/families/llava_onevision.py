"""Functions of LLaVA-OneVision: a single image is whole and in tiles, several images of a sample are whole only.

Boxes are taught, as 0..1000, because it is not known how the model was trained to write them: its training data has
LLaVA's fractions of 1, some of the image and some of the square that the image was padded to. Source: arXiv 2408.03326,
which does not mention boxes; haotian-liu/LLaVA, issues 606 and 822.
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
from virft.models.checkpoint_checks import require_equal
from virft.models.families.tiles import meta_tiles, sides_of
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Run the image processor.

    Returns pixels float32 [pieces, 3, side, side], the whole of each image first, ``pieces`` int64 [images], and
    ``size`` int64 [images, 2]: the original height and width, by which features of padding are removed.
    """
    made = processor(images=[list(images)], return_tensors="pt")
    pixels = made["pixel_values"]  # [images, pieces, 3, side, side]
    pieces = torch.full((len(images),), pixels.shape[1])
    return VisionInputs(pixel_values=pixels.flatten(0, 1), per_image={"pieces": pieces, "size": made["image_sizes"]})


def measure_images(processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
    """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device."""
    side = _side(processor)
    count = 1
    if len(sizes) == 1:
        ((width, height),) = sizes
        best = select_best_resolution((height, width), processor.image_grid_pinpoints)
        count += (int(best[0]) // side[0]) * (int(best[1]) // side[1])
    pixels = meta_tiles(count * len(sizes), side)
    size = torch.tensor([(one.height, one.width) for one in sizes])
    return VisionInputs(pixel_values=pixels, per_image={"pieces": torch.full((len(sizes),), count), "size": size})


def _side(processor: Any) -> tuple[int, int]:
    """Return height and width of a tile."""
    return int(processor.size["height"]), int(processor.size["width"])


def check_processor(processor: Any, config: Any, path: str) -> None:
    """Raise ``ModelError`` if tiles have another size than the input of the tower."""
    require_equal(path, size=(_side(processor), sides_of(config.vision_config.image_size)))


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Return the size of each image after resizing, in pixels: that of all its tiles together."""
    side = vision.pixel_values.shape[-1]

    def size(pieces: int, own: list[int]) -> ImageSize:
        height, width = (
            (side, side) if pieces == 1 else select_best_resolution(tuple(own), processor.image_grid_pinpoints)
        )
        return ImageSize(width, height)

    return [size(*one) for one in _images(vision)]


def _images(vision: VisionInputs) -> list[tuple[int, list[int]]]:
    """Return the number of pieces, and height and width in pixels, of each image."""
    return list(zip(vision.per_image["pieces"].tolist(), vision.per_image["size"].tolist(), strict=True))


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Raise ``ModelError``: sizes are those of ``image_grid_pinpoints``, which is in the model's configuration too."""
    raise ModelError(
        "model.min_pixels or model.max_pixels is set, but LLaVA-OneVision takes the sizes in image_grid_pinpoints of "
        "config.json and preprocessor_config.json; expected neither"
    )


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Return the language-model tokens of each image.

    An image in tiles has those of the whole, those of the tiles without padding, and one at the end of each line.
    An image that is whole only has those of the whole and one at the end. Source: ``pack_image_features``.
    """
    side = config.vision_config.image_size // config.vision_config.patch_size
    # "default" drops the first of the tower's tokens
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
    height, width = rows * side, columns * side  # tokens, padding included
    # Remove padding on both sides. The rounding is that of transformers: one line off, and the counts would differ.
    if size[1] / size[0] > width / height:
        height -= (height - int(round(size[0] * (width / size[1]), 7))) // 2 * 2
    else:
        width -= (width - int(round(size[1] * (height / size[0]), 7))) // 2 * 2
    # "anyres_max_9": more tokens than those of nine tiles are interpolated down to that number.
    ratio = math.sqrt(height * width / (int(config.vision_aspect_ratio.removeprefix("anyres_max_")) * side**2))
    if ratio > 1.1:
        height, width = int(height // ratio), int(width // ratio)
    return height * (width + 1)  # a newline token ends each line


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """Return, for each image, the placeholder repeated once for every token."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return [token * count for count in num_image_tokens(config, vision)]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """Run tower and projector once over all pieces: features [image tokens, hidden] of each image."""
    # transformers takes the number of images of each prompt: 1 means tiles, more mean whole images. Neighbouring
    # whole images can be declared as one prompt, even if they belong to several: the result is the same.
    runs = groupby(vision.per_image["pieces"].tolist(), key=lambda pieces: pieces > 1)
    prompts = [count for cut, run in runs for count in ([1] * len(list(run)) if cut else [len(list(run))])]
    made = model.model.get_image_features(
        vision.pixel_values, vision.per_image["size"], batch_num_images=prompts, return_dict=True
    )
    return ImageFeatures(tokens=tuple(made.pooler_output))


def forward_features(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """Return ``mm_encoder_outputs`` of several prompts in order: a list of [image tokens, hidden], one per image.

    Empty without images.
    """
    tokens: Any = [tensor for one in features for tensor in one.tokens]
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=tokens)}} if tokens else {}


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the placeholders of images and videos."""
    return frozenset({config.image_token_id, config.video_token_id})
