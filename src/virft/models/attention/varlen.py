"""Attention of packed rows by the kernel for sequences of different lengths, in half precision on a GPU.

Each prompt and each completion of a row is one sequence of queries, see ``virft.models.attention.layout.Segments``. Its
keys are copied side by side, [prompt | own], once for each KV head. The kernel stores no scores, computes them in
float32, and there is no padding. Source: FlashAttention-2 (arXiv 2307.08691), ``torch.nn.attention.varlen``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from virft.models.attention.cache import product_dtype
from virft.models.attention.layout import AttentionLayout, Segments

_HALF = (torch.bfloat16, torch.float16)
_MAX_HEAD_DIM = 256
_OLDEST = (8, 0)
"""Compute capability of the oldest GPUs with the kernel (Ampere)."""


def takes_varlen(query: Tensor, value: Tensor, layout: AttentionLayout) -> bool:
    """True if the kernel can compute the attention of a packed row; tensors are [heads, T, d]."""
    # The kernel knows causal attention and sliding windows, but no images whose tokens attend to each other both ways.
    if layout.image_blocks is not None:
        return False
    if layout.method is not None:
        return layout.method == "varlen"
    return product_dtype(value) in _HALF and _fits(query.shape[-1]) and has_varlen(query.device)


@cache
def has_varlen(device: torch.device) -> bool:
    """True for a GPU on which PyTorch has the kernel."""
    if device.type != "cuda" or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= _OLDEST


def note_on_stored_scores(
    device: torch.device, dtype: torch.dtype, *, head_dim: int, bidirectional_images: bool
) -> str | None:
    """Return why a run on a GPU stores the attention scores of its rows; None if it does not, or runs on a CPU.

    ``dtype``: that of products.
    """
    if device.type != "cuda":
        return None
    reasons = {
        f"in {str(dtype).removeprefix('torch.')} (expected bfloat16)": dtype not in _HALF,
        "for images whose tokens attend to each other in both directions": bidirectional_images,
        f"for heads of {head_dim} numbers (expected a multiple of 8, at most {_MAX_HEAD_DIM})": not _fits(head_dim),
        "on this GPU, or in this build of PyTorch": not has_varlen(device),
    }
    reason = next((text for text, is_so in reasons.items() if is_so), None)
    if reason is None:
        return None
    return f"attention stores the scores of each packed row: there is no fused kernel for it {reason}"


def _fits(head_dim: int) -> bool:
    return head_dim % 8 == 0 and head_dim <= _MAX_HEAD_DIM


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, segments: Segments
) -> Tensor:
    """Return the attention of a packed row, [1, T, heads, d], in the dtype of products.

    ``query`` [heads, T, d], ``key`` and ``value`` [kv, T, d]. A token attends to its prompt, and to its own segment
    up to itself; with a ``window``, only to the last ``window`` of these tokens.
    """
    from torch.nn.attention.varlen import varlen_attn

    # Autocast leaves rotated queries and keys in float32, and it does not cast inputs of this operator.
    dtype = product_dtype(value)
    both = torch.stack([x.to(dtype).transpose(0, 1) for x in (key, value)])  # [2, T, kv, d]
    keys, values = _Gather.apply(both, segments.key_place).unbind()  # type: ignore[no-untyped-call]
    output = varlen_attn(
        query.to(dtype).transpose(0, 1),  # [T, heads, d]
        keys,  # [K, kv, d]
        values,
        segments.query_starts,
        segments.key_starts,
        segments.most_queries,
        segments.most_keys,
        scale=scaling,
        # Tokens back and ahead. Where a segment has more keys than queries, its last query is aligned with its last
        # key, as if the keys in front were those of earlier queries: the prompt.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    assert isinstance(output, Tensor)
    return output[None]


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor of any shape in float32, or in its own dtype if that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _Gather(torch.autograd.Function):
    """Copies of keys and values: ``apply(both [2, T, kv, d], index [K])`` returns [2, K, kv, d].

    A prompt's keys are copied for each of its completions. Gradients of the copies are added in float32: in bfloat16,
    each addition would round.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = both.shape
        return both.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = widened(gradient)
        return wide.new_zeros(ctx.shape).index_add_(1, index, wide).to(gradient.dtype), None
