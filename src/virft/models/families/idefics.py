"""Functions of Idefics3 and SmolVLM: an image is cut into rows of square tiles, followed by the image as a whole.

Neither model's card or report names a format of boxes, so boxes are taught as 0..1000, like those of the Qwen models.
Source: HuggingFaceM4/Idefics3-8B-Llama3 and HuggingFaceTB/SmolVLM-Instruct, whose training sets (the Cauldron,
Docmatix) hold no detection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

from virft.errors import ModelError
from virft.models.checkpoint_checks import require_equal
from virft.models.families.tiles import by_image, grid_sizes, ids_of, meta_tiles
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize

_WHOLE, _AROUND = "<global-img>", "<fake_token_around_image>"
_MOST_ROWS = 6
"""Rows and columns for which the tokenizers of both families have markers, ``<row_1_col_1>`` to ``<row_6_col_6>``."""


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Run the image processor.

    Returns pixels float32 [tiles, 3, side, side], and ``rows`` and ``columns`` int64 [images] of tiles; both are 0 for
    an image that is not cut.
    """
    made = processor(images=[list(images)], return_tensors="pt", return_row_col_info=True)
    return VisionInputs(
        # All tiles of a prompt are of one size and none is padded, so the attention mask is 1 everywhere.
        pixel_values=made["pixel_values"][0],
        per_image={"rows": torch.tensor(made["rows"][0]), "columns": torch.tensor(made["cols"][0])},
    )


def measure_images(processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
    """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device."""
    grids = torch.tensor([_grid(processor, size) for size in sizes])
    rows, columns = grids.unbind(-1)
    pixels = meta_tiles(int((rows * columns + 1).sum()), int(processor.max_image_size["longest_edge"]))
    return VisionInputs(pixel_values=pixels, per_image={"rows": rows, "columns": columns})


def _grid(processor: Any, size: ImageSize) -> tuple[int, int]:
    """Return rows and columns of tiles; 0 and 0 for an image that is not cut. Source: ``resize_for_vision_encoder``."""
    side = int(processor.max_image_size["longest_edge"])
    if not processor.do_image_splitting:
        return 0, 0
    height, width = size.height, size.width
    if processor.do_resize:
        # transformers' function reads the shape of an array; this one takes no memory
        image = np.broadcast_to(np.uint8(0), (3, height, width))
        height, width = get_resize_output_image_size(image, int(processor.size["longest_edge"]))
    aspect = width / height
    # The longer side is rounded up to whole tiles first, and the other side follows with the aspect ratio.
    if width >= height:
        columns = math.ceil(width / side)
        rows = math.ceil(int(columns * side / aspect) / side)
    else:
        rows = math.ceil(height / side)
        columns = math.ceil(int(rows * side * aspect) / side)
    return (rows, columns) if rows * columns > 1 else (0, 0)


def check_processor(processor: Any, config: Any, path: str) -> None:
    """Raise ``ModelError`` if tiles have another size than the input of the tower."""
    require_equal(path, max_image_size=(processor.max_image_size["longest_edge"], config.vision_config.image_size))


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Return the size of each image after resizing, in pixels: that of all its tiles together."""
    return grid_sizes(vision.per_image["rows"], vision.per_image["columns"], vision.pixel_values.shape[-1])


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Set the longest edge to the largest number of tiles (at most six) whose square has at most ``high`` pixels.

    Raises ``ModelError`` if ``low`` is set, or if ``high`` is less than one tile.
    """
    side = processor.max_image_size["longest_edge"]
    if low is not None:
        raise ModelError(
            "model.min_pixels is set, but this family scales every image to one longest edge; "
            "expected model.max_pixels alone, or neither"
        )
    assert high is not None
    if high < side * side:
        raise ModelError(f"model.max_pixels is {high}; expected at least {side * side}, one tile of this model")
    tiles = min(math.isqrt(high) // side, _MOST_ROWS)
    processor.size = type(processor.size)(longest_edge=tiles * side)


def _num_tiles(vision: VisionInputs) -> Tensor:
    cut = vision.per_image["rows"] * vision.per_image["columns"]
    return cut + 1  # the whole image


def _tokens_of_a_tile(config: Any, vision: VisionInputs) -> int:
    side = int(vision.pixel_values.shape[-1]) // int(config.vision_config.patch_size)
    return int(side * side // config.scale_factor**2)


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Return the language-model tokens of each image: tiles, the whole image included, times tokens of a tile."""
    each = _tokens_of_a_tile(config, vision)
    return [int(count) * each for count in _num_tiles(vision)]


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """Return the text of each image: tiles row by row, each after its marker, then the whole. Source:
    ``SmolVLMProcessor`` of transformers."""
    tile = tokenizer.convert_ids_to_tokens(config.image_token_id) * _tokens_of_a_tile(config, vision)
    whole = f"{_AROUND}{_WHOLE}{tile}{_AROUND}"

    def text(rows: int, columns: int) -> str:
        if not rows * columns:
            return whole
        lines = ("".join(f"{_AROUND}<row_{r}_col_{c}>{tile}" for c in _count(columns)) for r in _count(rows))
        return "".join(f"{line}\n" for line in lines) + "\n" + whole

    grids = zip(vision.per_image["rows"].tolist(), vision.per_image["columns"].tolist(), strict=True)
    return [text(rows, columns) for rows, columns in grids]


def _count(number: int) -> range:
    return range(1, number + 1)


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """Run tower and connector once over all tiles: features [image tokens, hidden] of each image."""
    made = model.model.get_image_features(vision.pixel_values[None], return_dict=True)
    return by_image(made.pooler_output, _num_tiles(vision))


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the placeholder and the markers of tiles."""
    markers = [f"<row_{r}_col_{c}>" for r in _count(_MOST_ROWS) for c in _count(_MOST_ROWS)]
    return ids_of(tokenizer, [_WHOLE, _AROUND, "<video>", *markers]) | {config.image_token_id}
