"""The kernel behind ``torch.nn.attention.varlen.varlen_attn``, written out for a CPU, where PyTorch has none.

It has the conventions of FlashAttention: a segment's last query is aligned with its last key, and a window
(left, right) includes both ends; -1 is no limit. Importing this module registers it, forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen

calls: list[dict[str, Any]] = varlen.__dict__.setdefault("_calls_of_reference", [])
"""Arguments of each forward call; one list, as the collection of doctests imports this module a second time."""


def segments(starts: Tensor, key_starts: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the queries and the keys of each segment."""
    for first, last, first_key, last_key in zip(
        starts[:-1].tolist(), starts[1:].tolist(), key_starts[:-1].tolist(), key_starts[1:].tolist(), strict=True
    ):
        yield slice(first, last), slice(first_key, last_key)


def _scores(query: Tensor, key: Tensor, scale: float, is_causal: bool, window: list[int] | None) -> Tensor:
    """Scores [kv, repeat, queries, keys] of a segment, minus infinity where a query does not attend to a key."""
    queries, keys, kv = len(query), len(key), key.shape[1]
    grouped = query.unflatten(1, (kv, -1)).permute(1, 2, 0, 3)  # [kv, repeat, queries, d]
    scores = scale * grouped @ key.permute(1, 2, 0)[:, None]
    # how far a key lies behind its query
    back = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
    left, right = window or [-1, -1]
    if is_causal:
        right = 0
    hidden = torch.zeros_like(back, dtype=torch.bool)
    if left >= 0:
        hidden |= back > left
    if right >= 0:
        hidden |= back < -right
    return scores.masked_fill(hidden, float("-inf"))


def _wide(*tensors: Tensor) -> list[Tensor]:
    """In float32, as the kernel computes inside."""
    return [one.float() if one.dtype.itemsize < 4 else one for one in tensors]


@varlen._varlen_attn.register_kernel("cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert seqused_k is None and block_table is None and scale is not None
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.dtype == key.dtype == value.dtype and query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert (len(query), len(key)) == (int(cu_seq_q[-1]), int(cu_seq_k[-1]))
    calls.append({"dtype": query.dtype, "window": window_size, "is_causal": is_causal, "gqa": enable_gqa})
    wide_query, wide_key, wide_value = _wide(query, key, value)
    output, sums = torch.empty_like(wide_query), wide_query.new_empty(query.shape[1], len(query))
    for own, keys in segments(cu_seq_q, cu_seq_k):
        scores = _scores(wide_query[own], wide_key[keys], scale, is_causal, window_size)
        mixed = scores.softmax(-1) @ wide_value[keys].transpose(0, 1)[:, None]  # [kv, repeat, queries, d]
        output[own] = mixed.permute(2, 0, 1, 3).flatten(1, 2)
        sums[:, own] = scores.logsumexp(-1).flatten(0, 1)
    return output.to(query.dtype), sums.float(), torch.zeros(2, dtype=torch.uint64)


@varlen._varlen_attn_backward.register_kernel("cpu")
def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    rng_state: Tensor,
    scale: float | None = None,
    window_size: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert scale is not None
    wide_query, wide_key, wide_value, outer, output = _wide(query, key, value, grad_out, out)
    found = [torch.zeros_like(one) for one in (wide_query, wide_key, wide_value)]
    kv = key.shape[1]
    for own, keys in segments(cu_seq_q, cu_seq_k):
        scores = _scores(wide_query[own], wide_key[keys], scale, is_causal, window_size)
        weights = (scores - lse[:, own].unflatten(0, (kv, -1))[..., None]).exp()
        grouped, outers, outputs = (
            one[own].unflatten(1, (kv, -1)).permute(1, 2, 0, 3) for one in (wide_query, outer, output)
        )
        of_weights = outers @ wide_value[keys].permute(1, 2, 0)[:, None]
        of_scores = scale * weights * (of_weights - (outers * outputs).sum(-1, keepdim=True))
        found[0][own] = (of_scores @ wide_key[keys].transpose(0, 1)[:, None]).permute(2, 0, 1, 3).flatten(1, 2)
        found[1][keys] = (of_scores.transpose(-1, -2) @ grouped).sum(1).transpose(0, 1)
        found[2][keys] = (weights.transpose(-1, -2) @ outers).sum(1).transpose(0, 1)
    of_query, of_key, of_value = (one.to(query.dtype) for one in found)
    return of_query, of_key, of_value
