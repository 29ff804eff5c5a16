"""Counted operations (FLOPs) of a Qwen2-VL model: the upper limit of a measured speedup.

Counted: two operations for each multiply-add of every matrix product, including attention scores and their product with
the values, for the pairs of tokens that attend to each other (causal in the language model, within one image in the
vision tower). Not counted: norms, rotary embeddings, activations, softmax, embedding lookups, the optimizer. In the
backward pass a product costs the same again for its weight, and the same for its input; the patch embedding's input
needs no gradient, and a frozen tower has no backward pass. Logits are counted for completion tokens only.

``shared`` (prefix sharing): each image and prompt is computed once for G completions. Plain: once per completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
    text = _text(config, shape, shared=shared) + shape.group * _logits(config, shape.completion)
    return image * (1 if shared else shape.group) + 3 * text


def prefill_operations(config: Any, shape: GroupShape, *, shared: bool) -> int:
    """Count the work before the first token is sampled: the image, the prompt, the logits after it."""
    once = image_operations(config, shape.patches)
    once += _language(config, shape.prompt, _causal(shape.prompt)) + _logits(config, 1)
    return once * (1 if shared else shape.group)


def step_operations(config: Any, shape: GroupShape, *, shared: bool, frozen_vision: bool) -> int:
    """Count the sampling of one group and the update on it.

    The last token of a completion is not an input of sampling. With ``shared``, the image features that a frozen tower
    computed for sampling are reused by the update.
    """
    tokens = shape.completion - 1
    decoding = _language(config, tokens, _after(shape.prompt, tokens)) + _logits(config, tokens)
    if shared:
        update = update_stage_operations(config, shape, frozen_vision=frozen_vision)
    else:
        update = update_operations(config, shape, shared=False, frozen_vision=frozen_vision)
    return prefill_operations(config, shape, shared=shared) + shape.group * decoding + update


def update_stage_operations(config: Any, shape: GroupShape, *, frozen_vision: bool) -> int:
    """Count the shared update that reuses the image features of a frozen tower."""
    update = update_operations(config, shape, shared=True, frozen_vision=frozen_vision)
    return update - (image_operations(config, shape.patches) if frozen_vision else 0)


def image_operations(config: Any, patches: int) -> int:
    """Count the vision tower's forward pass over one image."""
    return _embedding(config, patches) + _tower(config, patches)


def forward_operations(config: Any, shape: GroupShape) -> int:
    """Count the shared forward pass over a group with its logits, without the images: the cost of a reference model."""
    return _text(config, shape, shared=True) + shape.group * _logits(config, shape.completion)


def adapters_update_operations(config: Any, shape: GroupShape, *, rank: int) -> int:
    """Count the shared update with LoRA in every linear layer of the language model, without the images.

    The product with a frozen weight has only the gradient of its input; attention scores, and the two products of an
    adapter, have both.
    """
    text = config.text_config
    hidden, kv = text.hidden_size, text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    widths = 2 * (hidden + hidden) + 2 * (hidden + kv) + 3 * (hidden + text.intermediate_size)
    tokens = shape.prompt + shape.group * shape.completion
    pairs = _causal(shape.prompt) + shape.group * _after(shape.prompt, shape.completion)
    frozen = _language(config, tokens, 0) + shape.group * _logits(config, shape.completion)
    adapters = text.num_hidden_layers * 2 * tokens * rank * widths
    return 2 * frozen + 3 * (_language(config, 0, pairs) + adapters)


def sampling_operations(config: Any, shape: GroupShape) -> int:
    """Count the sampling of a group, without the images."""
    prefill = _language(config, shape.prompt, _causal(shape.prompt)) + _logits(config, 1)
    tokens = shape.completion - 1
    return prefill + shape.group * (_language(config, tokens, _after(shape.prompt, tokens)) + _logits(config, tokens))


def _text(config: Any, shape: GroupShape, *, shared: bool) -> int:
    """Count the language model's forward pass over a group, without logits."""
    prompt = _language(config, shape.prompt, _causal(shape.prompt))
    completion = _language(config, shape.completion, _after(shape.prompt, shape.completion))
    return prompt * (1 if shared else shape.group) + completion * shape.group


def _causal(tokens: int) -> int:
    """Number of pairs of a token and a token that it attends to."""
    return tokens * (tokens + 1) // 2


def _after(prompt: int, tokens: int) -> int:
    """Number of such pairs for tokens that follow a prompt."""
    return tokens * prompt + _causal(tokens)


def _language(config: Any, tokens: int, pairs: int) -> int:
    text = config.text_config
    hidden, kv = text.hidden_size, text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    weights = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * text.intermediate_size
    return text.num_hidden_layers * (2 * tokens * weights + 4 * pairs * hidden)


def _logits(config: Any, tokens: int) -> int:
    return 2 * tokens * config.text_config.hidden_size * config.text_config.vocab_size


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
