"""Shapes of the weights that a token is multiplied by in each decoder layer, from a model's configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from virft.models.families.family import head_dim_of


class LayerShapes(NamedTuple):
    """Weights of one decoder layer."""

    adapted: tuple[tuple[int, int], ...]
    """Inputs and outputs of each linear layer that ``LoadedModel.add_lora`` gives adapters."""
    others: int
    """Numbers of other weights: of the router and the experts that a token is routed to; of embeddings of the layer."""
    width: int
    """Numbers of all query heads of a token."""
    kv_width: int
    """Numbers of all KV heads of a token, of keys as of values; 0 if the layer uses those of an earlier one."""

    @property
    def weights(self) -> int:
        """Numbers that a token is multiplied by."""
        return sum(inputs * outputs for inputs, outputs in self.adapted) + self.others


def layer_shapes(text: Any) -> list[LayerShapes]:
    """Return the shapes of each decoder layer. ``text``: config of a language model with gated MLPs."""
    return [_shapes_of(text, index) for index in range(text.num_hidden_layers)]


def largest_head(text: Any) -> int:
    """Return the numbers of an attention head, of the layer whose heads have most."""
    return int(max(layer.width for layer in layer_shapes(text)) // text.num_attention_heads)


def kv_sources(text: Any) -> list[int]:
    """Return, for each decoder layer, the number of the layer whose keys and values it uses, mostly its own.

    In Gemma 4 the last ``num_kv_shared_layers`` use those of the last other layer of their type.
    """
    own = text.num_hidden_layers - (getattr(text, "num_kv_shared_layers", None) or 0)
    kinds = getattr(text, "layer_types", None) or [""] * text.num_hidden_layers
    last = {kind: index for index, kind in enumerate(kinds[:own])}
    return [*range(own), *(last[kind] for kind in kinds[own:])]


def _shapes_of(text: Any, index: int) -> LayerShapes:
    hidden, inner, others = text.hidden_size, text.intermediate_size, 0
    own_config = text.per_layer_config[index] if text.model_type == "gemma4_text" else text
    head = head_dim_of(own_config)
    width, kv_width = text.num_attention_heads * head, own_config.num_key_value_heads * head
    attention: tuple[tuple[int, int], ...] = ((hidden, width), (hidden, kv_width), (hidden, kv_width), (width, hidden))
    if text.model_type in _HAS_EXPERTS:
        return LayerShapes(attention, _mlp_weights(text, index), width, kv_width)
    if text.model_type == "gemma4_text":
        # gate and projection of the layer's own embeddings, and its part of their projection from the hidden states
        others = 3 * hidden * (text.hidden_size_per_layer_input or 0)
        if kv_sources(text)[index] != index:
            attention, kv_width = (attention[0], attention[-1]), 0
            inner *= 2 if text.use_double_wide_mlp else 1
    # GLM-4.1V has gate and up in one layer.
    upwards = ((hidden, 2 * inner),) if text.model_type == "glm4v_text" else ((hidden, inner), (hidden, inner))
    return LayerShapes((*attention, *upwards, (inner, hidden)), others, width, kv_width)


def _mlp_weights(text: Any, index: int) -> int:
    """Numbers of the MLP of a layer, or of its router and the experts that a token uses."""
    if not _HAS_EXPERTS[text.model_type](text, index):
        return int(3 * text.hidden_size * text.intermediate_size)
    experts = getattr(text, "n_routed_experts", None) or text.num_experts
    used = text.num_experts_per_tok + getattr(text, "n_shared_experts", 0)
    return int(text.hidden_size * (experts + 3 * used * text.moe_intermediate_size))


_HAS_EXPERTS: dict[str, Callable[[Any, int], bool]] = {
    "glm4v_moe_text": lambda text, index: index >= text.first_k_dense_replace,
    "qwen3_vl_moe_text": lambda text, index: (
        index not in (text.mlp_only_layers or ()) and (index + 1) % text.decoder_sparse_step == 0
    ),
}
"""By type of the language model: true if a decoder layer is a mixture of experts. Source: transformers."""
