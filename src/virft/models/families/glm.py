"""Functions of GLM-4.1V and GLM-4.5V: those of Qwen-VL, with another rule for sizes and another rotary embedding.

Boxes are 0..1000 of width and height. Source: GLM-V's grounding skill in its repository ("relative coordinates ...
range 0-1000").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

from virft.errors import ModelError
from virft.models.checkpoint_checks import require_equal
from virft.models.families.family import head_dim_of
from virft.models.families.qwen import (
    encode_images,
    forward_features,
    grids_on_meta,
    image_texts,
    num_image_tokens,
    prompt_positions,
    read_images,
    resized_sizes,
    set_edges,
)
from virft.models.vision import VisionInputs
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
    "prompt_positions",
    "read_images",
    "resized_sizes",
]


def measure_images(processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
    """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device.

    Raises ``ModelError`` for an image that is longer than 200 times its other side.
    """
    frames, factor = processor.temporal_patch_size, processor.patch_size * processor.merge_size
    bounds = {"min_pixels": processor.size["shortest_edge"], "max_pixels": processor.size["longest_edge"]}

    def resized(height: int, width: int) -> tuple[int, int]:
        found: tuple[int, int] = smart_resize(frames, height, width, frames, factor, **bounds)
        return found

    return grids_on_meta(processor, sizes, resized)


def check_processor(processor: Any, config: Any, path: str) -> None:
    """Raise ``ModelError`` if patches have another size than the tower's, or rotary axes another than the heads'."""
    tower, text = config.vision_config, config.get_text_config()
    require_equal(
        path,
        patch_size=(processor.patch_size, tower.patch_size),
        merge_size=(processor.merge_size, tower.spatial_merge_size),
        temporal_patch_size=(processor.temporal_patch_size, tower.temporal_patch_size),
    )
    rope = text.rope_parameters or {}
    sections = rope.get("mrope_section", [8, 12, 12])  # the default of transformers
    rotated = int(head_dim_of(text) * rope.get("partial_rotary_factor", 1.0))
    if not isinstance(sections, list | tuple) or 2 * sum(sections) != rotated:
        raise ModelError(
            f"{path}: mrope_section in its config.json is {sections!r:.80}; expected three numbers whose sum is "
            f"{rotated // 2}, half the rotated part of an attention head"
        )


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Set the smallest and the largest image area in pixels; None retains the model's own.

    Images are scaled, with their aspect ratio, until their area is between the two.
    """
    # The files count pixels of all frames, and an image is as many frames as a patch has along time.
    frames = processor.temporal_patch_size
    set_edges(processor, *(None if area is None else area * frames for area in (low, high)))


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the placeholders of images and videos, and the markers around them."""
    names = ("image_token_id", "video_token_id")
    markers = tuple(f"{kind}_{end}_token_id" for kind in ("image", "video") for end in ("start", "end"))
    return frozenset(int(getattr(config, name)) for name in (*names, *markers))
