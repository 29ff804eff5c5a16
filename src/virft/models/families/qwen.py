"""Functions of the Qwen-VL families 2, 2.5 and 3: native aspect ratio, three-axis rotary position ids (M-RoPE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from virft.errors import ModelError
from virft.models.checkpoint_checks import require_equal
from virft.models.families.family import head_dim_of
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Run the image processor.

    Returns pixels float32 [patches, patch values] and ``grid_thw`` int64 [images, 3]: patches of each image along time,
    height and width.
    """
    made = processor(images=list(images), return_tensors="pt")
    return VisionInputs(pixel_values=made["pixel_values"], per_image={"grid_thw": made["image_grid_thw"]})


_MOST_ASPECT = 200
"""Largest aspect ratio that the image processor takes."""


def measure_images(processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
    """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device.

    Raises ``ModelError`` for an image that is longer than 200 times its other side.
    """
    factor = processor.patch_size * processor.merge_size
    areas = (processor.size["shortest_edge"], processor.size["longest_edge"])

    def resized(height: int, width: int) -> tuple[int, int]:
        found: tuple[int, int] = smart_resize(height, width, factor, *areas)
        return found

    return grids_on_meta(processor, sizes, resized)


def grids_on_meta(
    processor: Any, sizes: Sequence[ImageSize], resized: Callable[[int, int], tuple[int, int]]
) -> VisionInputs:
    """Return the patches of images that are resized by ``resized(height, width)``, with pixels on the meta device.

    Raises ``ModelError`` for an image that is longer than 200 times its other side.
    """
    side = processor.patch_size
    grids = []
    for size in sizes:
        if max(size) > _MOST_ASPECT * min(size):
            raise ModelError(
                f"{size.width} x {size.height} pixels, an aspect ratio of {max(size) / min(size):.0f}; "
                f"expected at most {_MOST_ASPECT} for this model"
            )
        height, width = resized(size.height, size.width)
        grids.append((1, height // side, width // side))
    grid_thw = torch.tensor(grids)
    values = 3 * processor.temporal_patch_size * side**2
    pixels = torch.empty((int(grid_thw.prod(-1).sum()), values), device="meta")
    return VisionInputs(pixel_values=pixels, per_image={"grid_thw": grid_thw})


def check_processor(processor: Any, config: Any, path: str) -> None:
    """Raise ``ModelError`` if patches have another size than the tower's, or rotary axes another than the heads'."""
    tower = config.vision_config
    require_equal(
        path,
        patch_size=(processor.patch_size, tower.patch_size),
        merge_size=(processor.merge_size, tower.spatial_merge_size),
        temporal_patch_size=(processor.temporal_patch_size, tower.temporal_patch_size),
    )
    text = config.get_text_config()
    sections = (getattr(text, "rope_parameters", None) or {}).get("mrope_section")
    head = head_dim_of(text)
    # Qwen3-VL has a default; the others need the setting.
    if sections is None and "qwen3" in config.model_type:
        return
    if not isinstance(sections, list | tuple) or 2 * sum(sections) != head:
        raise ModelError(
            f"{path}: mrope_section in its config.json is {sections!r:.80}; expected three numbers whose sum is "
            f"{head // 2}, half the size of an attention head"
        )


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Return the size of each image after resizing, in pixels: patches times their size."""
    side = processor.patch_size
    return [ImageSize(w * side, h * side) for _, h, w in vision.per_image["grid_thw"].tolist()]


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Set the smallest and the largest image area in pixels; None retains the model's own.

    Images are scaled, with their aspect ratio, until their area is between the two.
    """
    set_edges(processor, low, high)


def set_edges(processor: Any, low: int | None, high: int | None) -> None:
    """Set ``shortest_edge`` and ``longest_edge`` of an image processor; None retains its own."""
    # The files call the two areas shortest and longest edge, whatever they hold.
    size = dict(processor.size)
    size["shortest_edge"] = low if low is not None else size["shortest_edge"]
    size["longest_edge"] = high if high is not None else size["longest_edge"]
    processor.size = type(processor.size)(**size) if not isinstance(processor.size, dict) else size


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Return the language-model tokens of each image: patches / merge_size^2."""
    merged = config.vision_config.spatial_merge_size**2
    return [int(count) // merged for count in vision.per_image["grid_thw"].prod(-1).tolist()]


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """Return, for each image, the placeholder repeated once for every token."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return [token * count for count in num_image_tokens(config, vision)]


def prompt_positions(model: Any, token_ids: Tensor, vision: VisionInputs) -> Tensor:
    """Return the rotary position ids of one prompt, int64 [3, L]: time, height, width.

    ``token_ids``: int64 [L]. Source: M-RoPE of Qwen2-VL (arXiv 2409.12191).
    """
    # One prompt at a time: over a packed row, positions would continue from one prompt to the next. Never read from
    # the model's own state (`rope_deltas`), which any forward pass with images overwrites.
    is_image = (token_ids == model.config.image_token_id).int()[None]
    grid = vision.per_image["grid_thw"]
    positions: Tensor = model.model.get_rope_index(token_ids[None], is_image, image_grid_thw=grid)[0]
    return positions[:, 0]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """Run the vision tower once over all images: features [image tokens, hidden] of each, and those of deepstack."""
    made = model.model.get_image_features(vision.pixel_values, vision.per_image["grid_thw"], return_dict=True)
    deep = getattr(made, "deepstack_features", None) or ()
    return ImageFeatures(tokens=tuple(made.pooler_output), deep=tuple(tuple(layer) for layer in deep))


def forward_features(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """Return ``mm_encoder_outputs`` of several prompts in order: a list of [image tokens, hidden], one per image.

    Empty without images.
    """
    # A new object at each call: transformers may rewrite it in place, and features may be cached.
    if not any(one.tokens for one in features):
        return {}
    tokens: Any = [tensor for one in features for tensor in one.tokens]
    made = BaseModelOutputWithPooling(pooler_output=tokens)
    if features[0].deep:
        layers = range(len(features[0].deep))
        made.deepstack_features = [[tensor for one in features for tensor in one.deep[layer]] for layer in layers]
    return {"mm_encoder_outputs": {"image": made}}


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the placeholders of images and videos: a sampled one has no image, and the next forward pass fails."""
    return frozenset({config.image_token_id, config.video_token_id})
