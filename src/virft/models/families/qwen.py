"""The Qwen-VL families: 2, 2.5 and 3. Images at their own aspect ratio, three-axis positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from virft.geometry.boxes import BoxSpace
from virft.models.attention.shared_prompt import VISION_ATTENTION
from virft.models.families.family import Family
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


def read_images(processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
    """Patches [patches, patch values] and ``grid_thw`` [images, 3]: patches along time, height, width."""
    made = processor(images=list(images), return_tensors="pt")
    return VisionInputs(pixel_values=made["pixel_values"], per_image={"grid_thw": made["image_grid_thw"]})


def resized_sizes(processor: Any, vision: VisionInputs) -> list[ImageSize]:
    """Patches times their size."""
    side = processor.patch_size
    return [ImageSize(w * side, h * side) for _, h, w in vision.per_image["grid_thw"].tolist()]


def limit_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Images are scaled, keeping their aspect, until their area lies between the two."""
    size = dict(processor.size)
    size["shortest_edge"] = low if low is not None else size["shortest_edge"]
    size["longest_edge"] = high if high is not None else size["longest_edge"]
    processor.size = type(processor.size)(**size) if not isinstance(processor.size, dict) else size


def num_image_tokens(config: Any, vision: VisionInputs) -> list[int]:
    """Language-model tokens of each image: patches / merge^2."""
    merged = config.vision_config.spatial_merge_size**2
    return [int(count) // merged for count in vision.per_image["grid_thw"].prod(-1).tolist()]


def image_texts(tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
    """The placeholder, once for every token."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return [token * count for count in num_image_tokens(config, vision)]


def prompt_positions(model: Any, token_ids: Tensor, vision: VisionInputs) -> Tensor:
    """Rotary positions [3, L] of one prompt: time, height, width. Never read from the model's own state."""
    is_image = (token_ids == model.config.image_token_id).int()[None]
    grid = vision.per_image["grid_thw"]
    positions: Tensor = model.model.get_rope_index(token_ids[None], is_image, image_grid_thw=grid)[0]
    return positions[:, 0]


def encode_images(model: Any, vision: VisionInputs) -> ImageFeatures:
    """One pass of the vision tower over the images of ``vision``."""
    made = model.model.get_image_features(vision.pixel_values, vision.per_image["grid_thw"], return_dict=True)
    deep = getattr(made, "deepstack_features", None) or ()
    return ImageFeatures(tokens=tuple(made.pooler_output), deep=tuple(tuple(layer) for layer in deep))


def forward_features(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """``mm_encoder_outputs`` of several prompts in order; made anew each time, as transformers may rewrite it."""
    if not any(one.tokens for one in features):
        return {}
    tokens: Any = [tensor for one in features for tensor in one.tokens]
    made = BaseModelOutputWithPooling(pooler_output=tokens)
    if features[0].deep:
        layers = range(len(features[0].deep))
        made.deepstack_features = [[tensor for one in features for tensor in one.deep[layer]] for layer in layers]
    return {"mm_encoder_outputs": {"image": made}}


def forbidden_token_ids(tokenizer: Any, config: Any) -> frozenset[int]:
    """Placeholders of images and videos: a sampled one has no picture behind it and breaks the next forward."""
    return frozenset({config.image_token_id, config.video_token_id})


def _qwen(model_type: str, box_space: BoxSpace, *mergers: str) -> Family:
    return Family(
        model_type=model_type,
        box_space=box_space,
        language_module="model.language_model",
        vision_names=("model.visual.",),
        vision_attention=VISION_ATTENTION,
        placeholder_id=lambda config: int(config.image_token_id),
        read_images=read_images,
        resized_sizes=resized_sizes,
        limit_pixels=limit_pixels,
        image_texts=image_texts,
        num_image_tokens=num_image_tokens,
        prompt_positions=prompt_positions,
        encode_images=encode_images,
        forward_features=forward_features,
        forbidden_token_ids=forbidden_token_ids,
        projector_names=("model.visual.merger.", *mergers),
    )


QWEN2_VL = _qwen("qwen2_vl", BoxSpace.RELATIVE_1000)
QWEN2_5_VL = _qwen("qwen2_5_vl", BoxSpace.RESIZED_PIXELS)
QWEN3_VL = _qwen("qwen3_vl", BoxSpace.RELATIVE_1000, "model.visual.deepstack_merger_list.")
