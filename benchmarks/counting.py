"""Counted operations of a Qwen2-VL model: the limit that a measured speed-up can reach.

Counted: two operations for each multiply-add of every matrix product, attention scores and their product with the
values included, and those only where a token may look (causally in the language model, inside its own image in the
vision tower). Not counted: norms, rotations, activations, softmax, look-ups, the optimizer. A product costs as much
again backwards for its weight, and as much for its input; the patch embedding's input needs no gradient, and a frozen
tower is only run forwards. Logits are counted for completion tokens only, on both sides.

``shared``: image once, prompt once, G completions after it. Plain: image and prompt again for every completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupShape:
    """A group: prompt tokens (image tokens included), tokens of each completion, completions, patches of the image."""

    prompt: int
    completion: int
    group: int
    patches: int


def update_operations(config: Any, shape: GroupShape, *, shared: bool, frozen_vision: bool) -> int:
    """Forward and backward over one group."""
    image = _embedding(config, shape.patches) * (1 if frozen_vision else 2)
    image += _tower(config, shape.patches) * (1 if frozen_vision else 3)
    text = _text(config, shape, shared=shared) + shape.group * _logits(config, shape.completion)
    return image * (1 if shared else shape.group) + 3 * text


def prefill_operations(config: Any, shape: GroupShape, *, shared: bool) -> int:
    """What sampling computes before it draws the first token: the image, the prompt, the logits after it."""
    once = image_operations(config, shape.patches)
    once += _language(config, shape.prompt, _causal(shape.prompt)) + _logits(config, 1)
    return once * (1 if shared else shape.group)


def step_operations(config: Any, shape: GroupShape, *, shared: bool, frozen_vision: bool) -> int:
    """Sampling of one group and the update on it.

    Once drawn, a completion's last token is not run for sampling. What a frozen tower made for sampling serves the
    update too where work is shared.
    """
    tokens = shape.completion - 1
    decoding = _language(config, tokens, _after(shape.prompt, tokens)) + _logits(config, tokens)
    if shared:
        update = update_stage_operations(config, shape, frozen_vision=frozen_vision)
    else:
        update = update_operations(config, shape, shared=False, frozen_vision=frozen_vision)
    return prefill_operations(config, shape, shared=shared) + shape.group * decoding + update


def update_stage_operations(config: Any, shape: GroupShape, *, frozen_vision: bool) -> int:
    """The shared update where what a frozen tower made for sampling is at hand."""
    update = update_operations(config, shape, shared=True, frozen_vision=frozen_vision)
    return update - (image_operations(config, shape.patches) if frozen_vision else 0)


def image_operations(config: Any, patches: int) -> int:
    """The vision tower's forward over an image."""
    return _embedding(config, patches) + _tower(config, patches)


def forward_operations(config: Any, shape: GroupShape) -> int:
    """The shared forward over a group with its logits, images encoded before: what a reference costs."""
    return _text(config, shape, shared=True) + shape.group * _logits(config, shape.completion)


def adapters_update_operations(config: Any, shape: GroupShape, *, rank: int) -> int:
    """The shared update with LoRA in every linear layer of the language model, images encoded before.

    A frozen weight's product has no gradient but its input's; scores, and the adapters' two products, have both.
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
    """Prompt and tokens of a group, images encoded before."""
    prefill = _language(config, shape.prompt, _causal(shape.prompt)) + _logits(config, 1)
    tokens = shape.completion - 1
    return prefill + shape.group * (_language(config, tokens, _after(shape.prompt, tokens)) + _logits(config, tokens))


def _text(config: Any, shape: GroupShape, *, shared: bool) -> int:
    """The language model's forward over a group, without logits."""
    prompt = _language(config, shape.prompt, _causal(shape.prompt))
    completion = _language(config, shape.completion, _after(shape.prompt, shape.completion))
    return prompt * (1 if shared else shape.group) + completion * shape.group


def _causal(tokens: int) -> int:
    """Pairs of a token and one that it sees."""
    return tokens * (tokens + 1) // 2


def _after(prompt: int, tokens: int) -> int:
    """The same for tokens that follow a prompt."""
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
    """Blocks and merger."""
    vision = config.vision_config
    width, merged = vision.embed_dim, vision.embed_dim * vision.spatial_merge_size**2
    weights = 4 * width * width + 2 * width * int(width * vision.mlp_ratio)
    blocks = vision.depth * (2 * patches * weights + 4 * patches * patches * width)
    return blocks + 2 * (patches // vision.spatial_merge_size**2) * (merged * merged + merged * vision.hidden_size)
