"""Counted operations (FLOPs) of a packed row in the language model, for its MFU.

MFU (model FLOPs utilization) of the update: operations that the forward and backward pass over the packed rows need,
per second of the update and per peak rate of the devices. Needed is what prefix sharing leaves: each prompt once, and
nothing twice that gradient checkpointing recomputes. Source: PaLM (arXiv 2204.02311), appendix B.

Counted: two operations for each multiply-add of every matrix product of the language model, including attention scores
and their product with the values for the pairs of tokens that attend to each other, and the logits of the tokens to
predict. Not counted: images, norms, rotary embeddings, activations, softmax, embedding lookups, the optimizer. With a
trained vision tower the MFU is therefore a lower limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from virft.models.layer_shapes import layer_shapes

if TYPE_CHECKING:
    from virft.models.attention.layout import PackedRow


class Segment(NamedTuple):
    """Consecutive tokens of a row that attend causally to the same sequence, of which they are the end."""

    queries: int
    """Tokens of the segment: of a prompt, or of a completion."""
    keys: int
    """Tokens of the sequence: of the prompt, or of prompt and completion."""


class ForwardOperations(NamedTuple):
    """Operations of a forward pass through the language model."""

    weights: int
    """Products with the weights of the layers."""
    attention: int
    """Scores, and their products with the values."""
    logits: int
    """Products with the output embeddings."""


def group_segments(prompt: int, completions: Iterable[int]) -> list[Segment]:
    """Return the segments of a prompt and of its completions, from their numbers of tokens.

    >>> group_segments(5, [2, 3])
    [Segment(queries=5, keys=5), Segment(queries=2, keys=7), Segment(queries=3, keys=8)]
    """
    return [Segment(prompt, prompt), *(Segment(tokens, prompt + tokens) for tokens in completions)]


def row_segments(row: PackedRow) -> list[Segment]:
    """Return the segments of a packed row, in its order."""
    segments = row.layout.segments
    return [
        Segment(queries, keys)
        for queries, keys in zip(
            segments.query_starts.diff().tolist(), segments.key_starts.diff().tolist(), strict=True
        )
    ]


def forward_operations(text: Any, segments: Sequence[Segment], *, num_logits: int) -> ForwardOperations:
    """Count the forward pass over segments; ``num_logits``: tokens whose logits are computed.

    ``text``: config of the language model, with gated MLPs in its layers, as all supported families have them. Of a
    mixture of experts, the router and the experts that a token uses count. Image tokens of a prompt count as attending
    causally.
    """
    shapes = layer_shapes(text)
    pairs = {
        window: sum(attended_pairs(segment, window=window) for segment in segments) for window in set(_windows(text))
    }
    tokens = sum(one.queries for one in segments)
    return ForwardOperations(
        weights=2 * tokens * sum(layer.weights for layer in shapes),
        attention=4 * sum(pairs[window] * layer.width for window, layer in zip(_windows(text), shapes, strict=True)),
        logits=2 * num_logits * text.hidden_size * text.vocab_size,
    )


def update_operations(text: Any, segments: Sequence[Segment], *, num_logits: int, lora_rank: int | None = None) -> int:
    """Count the forward and backward pass over segments, without the images; arguments as ``forward_operations``.

    In the backward pass a product costs the same again for each of its two gradients; a product with a frozen weight
    has only that of its input. ``lora_rank``: rank of the adapters of ``LoadedModel.add_lora``, next to which all
    weights are frozen; None: all weights are trained.
    """
    forward = forward_operations(text, segments, num_logits=num_logits)
    if lora_rank is None:
        return 3 * sum(forward)
    widths = sum(inputs + outputs for layer in layer_shapes(text) for inputs, outputs in layer.adapted)
    tokens = sum(one.queries for one in segments)
    adapters = 2 * tokens * lora_rank * widths
    return 2 * (forward.weights + forward.logits) + 3 * (forward.attention + adapters)


def attended_pairs(segment: Segment, *, window: int | None = None) -> int:
    """Return the number of pairs of a query and a key that it attends to: itself and earlier ones, ``window`` at most.

    >>> attended_pairs(Segment(2, 7)), attended_pairs(Segment(2, 7), window=3)  # 6 + 7, 3 + 3
    (13, 6)
    """
    queries, keys = segment
    return _causal_pairs(keys, window) - _causal_pairs(keys - queries, window)


def _causal_pairs(tokens: int, window: int | None) -> int:
    """Number of pairs in a sequence of its own."""
    seen = tokens if window is None else min(tokens, window)
    return seen * (seen + 1) // 2 + (tokens - seen) * seen


def _windows(text: Any) -> list[int | None]:
    """Sliding window of each layer; None: none."""
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    return [text.sliding_window if kind == "sliding_attention" else None for kind in kinds]
