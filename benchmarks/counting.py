"""Counted operations (FLOPs) of a Qwen2-VL model: the upper limit of a measured speedup.

The language model is counted by ``virft.models.operations``; this file adds the vision tower, in the same way: two
operations for each multiply-add of every matrix product, and attention within one image. The patch embedding's input
needs no gradient, and a frozen tower has no backward pass. Logits are counted for completion tokens only.

``shared`` (prefix sharing): each image and prompt is computed once for G completions. Plain: once per completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from virft.models.operations import Segment, forward_operations, group_segments
from virft.models.operations import update_operations as language_update_operations


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupShape:
    """Sizes of a rollout group."""

    prompt: int
    """Prompt tokens, including image tokens."""
    completion: int
    """Tokens of each completion."""
    group: int
    """Number of completions."""
    patches: int
    """Patches of the image."""


def update_operations(config: Any, shape: GroupShape, *, shared: bool, frozen_vision: bool) -> int:
    """Count the forward and backward pass over one group."""
    image = _embedding(config, shape.patches) * (1 if frozen_vision else 2)
    image += _tower(config, shape.patches) * (1 if frozen_vision else 3)
    text = _text(config, shape, shared=shared)
    return image * (1 if shared else shape.group) + 3 * text


def prefill_operations(config: Any, shape: GroupShape, *, shared: bool) -> int:
    """Count the work before the first token is sampled: the image, the prompt, the logits after it."""
    once = image_operations(config, shape.patches)
    once += _prefill(config, shape)
    return once * (1 if shared else shape.group)


def step_operations(config: Any, shape: GroupShape, *, shared: bool, frozen_vision: bool) -> int:
    """Count the sampling of one group and the update on it.

    The last token of a completion is not an input of sampling. With ``shared``, the image features that a frozen tower
    computed for sampling are reused by the update.
    """
    if shared:
        update = update_stage_operations(config, shape, frozen_vision=frozen_vision)
    else:
        update = update_operations(config, shape, shared=False, frozen_vision=frozen_vision)
    return prefill_operations(config, shape, shared=shared) + shape.group * _decoding(config, shape) + update


def update_stage_operations(config: Any, shape: GroupShape, *, frozen_vision: bool) -> int:
    """Count the shared update that reuses the image features of a frozen tower."""
    update = update_operations(config, shape, shared=True, frozen_vision=frozen_vision)
    return update - (image_operations(config, shape.patches) if frozen_vision else 0)


def image_operations(config: Any, patches: int) -> int:
    """Count the vision tower's forward pass over one image."""
    return _embedding(config, patches) + _tower(config, patches)


def reference_operations(config: Any, shape: GroupShape) -> int:
    """Count the shared forward pass over a group with its logits, without the images: the cost of a reference model."""
    return _text(config, shape, shared=True)


def adapters_update_operations(config: Any, shape: GroupShape, *, rank: int) -> int:
    """Count the shared update with LoRA in every linear layer of the language model, without the images."""
    segments = group_segments(shape.prompt, [shape.completion] * shape.group)
    num_logits = shape.group * shape.completion
    return language_update_operations(config.text_config, segments, num_logits=num_logits, lora_rank=rank)


def sampling_operations(config: Any, shape: GroupShape) -> int:
    """Count the sampling of a group, without the images."""
    return _prefill(config, shape) + shape.group * _decoding(config, shape)


def _text(config: Any, shape: GroupShape, *, shared: bool) -> int:
    """Count the language model's forward pass over a group with the logits of its completions."""
    completions = [shape.completion] * shape.group
    segments = group_segments(shape.prompt, completions)
    if not shared:
        segments = group_segments(shape.prompt, [shape.completion]) * shape.group
    return sum(forward_operations(config.text_config, segments, num_logits=sum(completions)))


def _prefill(config: Any, shape: GroupShape) -> int:
    """Count the forward pass over a prompt with the logits of its last token."""
    return sum(forward_operations(config.text_config, group_segments(shape.prompt, []), num_logits=1))


def _decoding(config: Any, shape: GroupShape) -> int:
    """Count the sampling of a completion after its first token; its last one is not an input."""
    tokens = shape.completion - 1
    segments = [Segment(tokens, shape.prompt + tokens)]
    return sum(forward_operations(config.text_config, segments, num_logits=tokens))


def _embedding(config: Any, patches: int) -> int:
    vision = config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return 2 * patches * values * vision.embed_dim


def _tower(config: Any, patches: int) -> int:
    """Count the transformer blocks and the merger of the vision tower."""
    vision = config.vision_config
    width, merged = vision.embed_dim, vision.embed_dim * vision.spatial_merge_size**2
    weights = 4 * width * width + 2 * width * int(width * vision.mlp_ratio)
    blocks = vision.depth * (2 * patches * weights + 4 * patches * patches * width)
    return blocks + 2 * (patches // vision.spatial_merge_size**2) * (merged * merged + merged * vision.hidden_size)
