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
    """Numbers of other weights: those of the router, and of the experts that a token is routed to."""

    @property
    def weights(self) -> int:
        """Numbers that a token is multiplied by."""
        return sum(inputs * outputs for inputs, outputs in self.adapted) + self.others


def layer_shapes(text: Any) -> list[LayerShapes]:
    """Return the shapes of each decoder layer. ``text``: config of a language model with gated MLPs."""
    hidden, inner = text.hidden_size, text.intermediate_size
    width, kv_width = (heads * head_dim_of(text) for heads in (text.num_attention_heads, text.num_key_value_heads))
    attention = ((hidden, width), (hidden, kv_width), (hidden, kv_width), (width, hidden))
    if text.model_type in _HAS_EXPERTS:
        return [LayerShapes(attention, _mlp_weights(text, index)) for index in range(text.num_hidden_layers)]
    # GLM-4.1V has gate and up in one layer.
    upwards = ((hidden, 2 * inner),) if text.model_type == "glm4v_text" else ((hidden, inner), (hidden, inner))
    return [LayerShapes((*attention, *upwards, (inner, hidden)), 0)] * text.num_hidden_layers


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
