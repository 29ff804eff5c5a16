"""Attention functions that virft registers with transformers.

``SHARED_PROMPT`` (language model): in a packed row each completion sees its prompt and itself, and the prompt is
computed once; in decoding, the cache holds each prompt once. Calls that carry neither layout nor cache of ours
are plain scaled dot-product attention, so the name may stay set on the model.

``VISION_ATTENTION`` (vision tower): images of equal size as one batched product. Without flash attention,
transformers loops over the images in Python.

On a CPU, plain matrix products beat PyTorch's fused kernel for short sequences, most of all backwards
(7 times in a tower of 64-token images, see docs/log.md). Tables of a group's scores are larger: from some size on
that kernel takes them, in two parts, see ``virft.models.attention.merged``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from virft.models.attention.cache import GroupCache
from virft.models.attention.layout import AttentionLayout
from virft.models.attention.merged import MergedAttention

SHARED_PROMPT = "virft_shared_prompt"
# transformers hands over ``cu_seq_lens_q`` only where the implementation's name contains "flash"
VISION_ATTENTION = "virft_flash_vision"

_SHORT_VISION = 256
_SHORT_PROMPT = 256
_SMALL_TABLES = 2**22
"""Scores of completions: up to here tables of them are as fast as the fused kernel; larger ones leave the cache."""


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """Softmax attention over the last two axes; ``bias`` is added to the scores, see ``causal_bias``.

    All tensors are [..., tokens, head_dim] with equal leading axes (or broadcastable).
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    if bias is not None:
        scores += bias
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def causal_bias(tokens: int, window: int | None, repeat: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[repeat * tokens, tokens]: 0 where a token looks (at itself and back, ``window`` places), else the lowest number.

    Added in place, it costs nothing backwards; a boolean mask would copy the scores both ways.
    """
    steps = torch.arange(tokens, device=device)
    back = steps[:, None] - steps
    seen = back >= 0 if window is None else (back >= 0) & (back < window)
    return _as_bias(seen, dtype).repeat(repeat, 1)


def _as_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def shared_prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    group_layout: AttentionLayout | None = None,
    group_cache: GroupCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed row (``group_layout``), of one decoded token per row (``group_cache``), or plain.

    ``query`` [1, heads, T, d], ``key`` and ``value`` [1, kv heads, T, d]; when decoding [R, heads, 1, d] and
    what the cache returned. Returns [batch, tokens, heads, d]. Equal to a dense mask up to rounding.
    """
    if group_layout is None and group_cache is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert dropout == 0.0, "dropout would make sampler and policy differ"
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if group_cache is not None and group_cache.decoding:
        return _decode(query, key, value, scaling, sliding_window, group_cache, int(module.layer_idx)), None  # type: ignore[arg-type]
    assert group_layout is not None
    return _packed(query[0], key[0], value[0], scaling, sliding_window, group_layout), None


def _packed(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, layout: AttentionLayout
) -> Tensor:
    """Prompts causally, completions over [prompt | own]; tensors are [heads, T, d]. Returns [1, T, heads, d]."""
    heads, _, dim = query.shape
    kv = key.shape[0]
    repeat = heads // kv
    prompts, length, group, size = layout.table_shape
    # of query, key, value: those of the prompts and those of the completions
    parts = [layout.to_tables(x.transpose(0, 1).flatten(1)) for x in (query, key, value)]
    # [P, kv, repeat, L, d] and twice [P, kv, L, d]
    prompt_query = parts[0][0].view(prompts, length, kv, repeat, dim).permute(0, 2, 3, 1, 4)
    prompt_key, prompt_value = (part[0].view(prompts, length, kv, dim).transpose(1, 2) for part in parts[1:])
    answers = _prompt_attention(prompt_query, prompt_key, prompt_value, scaling, window, layout.image_blocks)
    table = answers.permute(0, 3, 1, 2, 4).reshape(prompts * length, heads * dim)
    if group:
        own_query = parts[0][1].view(prompts, group, size, kv, repeat, dim).permute(0, 3, 1, 4, 2, 5)
        own_key, own_value = (part[1].view(prompts, group, size, kv, dim).permute(0, 3, 1, 2, 4) for part in parts[1:])
        mixed = _completion_attention(own_query, own_key, own_value, prompt_key, prompt_value, scaling, window, layout)
        table = torch.cat([table, mixed.permute(0, 2, 4, 1, 3, 5).reshape(-1, heads * dim)])
    return layout.to_row(table).view(1, -1, heads, dim)


def _completion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt_key: Tensor,
    prompt_value: Tensor,
    scaling: float,
    window: int | None,
    layout: AttentionLayout,
) -> Tensor:
    """Attention of [P, kv, G, repeat, C, d] over the prompt's [P, kv, L, d] and its own [P, kv, G, C, d]."""
    _, length, group, size = layout.table_shape
    repeat = query.shape[3]
    is_large = query[..., 0].numel() * (length + size) > _SMALL_TABLES
    if query.device.type == "cpu" and window is None and is_large and not layout.in_tables:
        bias = None if layout.equal_prompts else _as_bias(_prompt_seen(layout, None)[:, :1], value.dtype)
        merged: Tensor = MergedAttention.apply(  # type: ignore[no-untyped-call]
            # autocast leaves rotated queries and keys in float32, and no kernel takes two types
            *(x.flatten(0, 1).to(value.dtype) for x in (query.flatten(3, 4), key, value, prompt_key, prompt_value)),
            causal_bias(size, None, repeat, value.dtype, query.device),
            None if bias is None else bias.repeat_interleave(query.shape[1], 0)[:, None],
            scaling,
        )
        return merged.view(query.shape)
    folded = (query * scaling).flatten(2, 4)  # all the queries that share a prompt's keys: [P, kv, G * repeat * C, d]
    to_prompt = (folded @ prompt_key.transpose(-1, -2)).unflatten(2, (group, repeat * size))
    to_own = folded.unflatten(2, (group, repeat * size)) @ key.transpose(-1, -2)
    to_own += causal_bias(size, window, repeat, to_own.dtype, to_own.device)
    if window is not None or not layout.equal_prompts:
        seen = _prompt_seen(layout, window).repeat(1, repeat, 1)  # [P, repeat * C, L]
        to_prompt += _as_bias(seen, to_prompt.dtype)[:, None, None]
    shares = torch.softmax(torch.cat([to_prompt, to_own], -1), -1, dtype=torch.float32).to(value.dtype)
    prompt_shares, own_shares = shares.split([length, size], -1)
    mixed: Tensor = (prompt_shares.flatten(2, 3) @ prompt_value).unflatten(2, (group, repeat * size))
    mixed = mixed + own_shares @ value
    return mixed.view(query.shape)


def _prompt_seen(layout: AttentionLayout, window: int | None) -> Tensor:
    """Which places of its prompt a completion's token sees: [P, C, L]."""
    _, length, _, size = layout.table_shape
    lengths = layout.prompt_lengths[:, None, None]
    columns = torch.arange(length, device=lengths.device)
    steps = torch.arange(size, device=lengths.device)[:, None]
    inside = (columns < lengths).expand(-1, size, -1)
    return inside if window is None else inside & (lengths + steps - columns < window)


def _two_way_bias(blocks: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """[P, 1, L, L] of ``image_blocks`` [P, L]: a token looks back, ``window`` places at most, and ahead in its image.

    Source: ``create_masks_for_vision_model`` of Gemma 3 in transformers.
    """
    steps = torch.arange(blocks.shape[1], device=blocks.device)
    back = steps[:, None] - steps
    seen = (back >= 0) | ((blocks[:, :, None] == blocks[:, None]) & (blocks >= 0)[:, None])
    return _as_bias(seen if window is None else seen & (back < window), dtype)[:, None]


def _prompt_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, blocks: Tensor | None
) -> Tensor:
    """Attention of prompts [P, kv, repeat, L, d] over [P, kv, L, d], causal but for ``blocks`` (images seen both ways).

    No token looks at the padding on the right.
    """
    repeat, length = query.shape[2:4]
    both_ways = None if blocks is None else _two_way_bias(blocks, window, query.dtype)
    if query.device.type == "cpu" and length <= _SHORT_PROMPT:
        bias = causal_bias(length, window, repeat, query.dtype, query.device)
        if both_ways is not None:
            bias = both_ways.repeat(1, 1, repeat, 1)
        return attend(query.flatten(2, 3), key, value, bias, scaling).view(query.shape)
    key, value = (x.repeat_interleave(repeat, 1) for x in (key, value))
    whole = both_ways is None and (window is None or window >= length)
    mask = both_ways
    if mask is None and not whole:
        mask = causal_bias(length, window, 1, query.dtype, query.device)
    output = F.scaled_dot_product_attention(
        query.flatten(1, 2), key, value, attn_mask=mask, is_causal=whole, scale=scaling
    )
    return output.reshape(query.shape)


def _decode(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, cache: GroupCache, layer: int
) -> Tensor:
    """One new token per row: ``query`` [R, heads, 1, d]; ``key``, ``value`` [P * kv * W, t, d] as the cache keeps them.

    Rows of one prompt are folded into one product with its keys, which are stored once. Returns [R, 1, heads, d].
    """
    rows, heads, _, dim = query.shape
    prompt_key, prompt_value = cache.layers[layer].prompt_keys, cache.layers[layer].prompt_values
    prompts, kv, length, _ = prompt_key.shape
    own, repeat = key.shape[1], heads // kv
    folded = (query.reshape(rows * kv, repeat * dim) * scaling).index_select(0, cache.fold)  # [P * kv * W, repeat * d]
    to_prompt = folded.view(prompts, kv, -1, dim) @ prompt_key.transpose(-1, -2)  # [P, kv, W * repeat, L]
    to_own = folded.view(-1, repeat, dim) @ key.transpose(-1, -2)
    if window is not None or not cache.equal_prompts:
        lengths = cache.prompt_lengths[:, None]
        columns = torch.arange(length, device=query.device)
        seen = columns < lengths  # [P, L]
        if window is not None:
            seen &= lengths + own - 1 - columns < window
            to_own[..., : max(0, own - window)] = torch.finfo(to_own.dtype).min
        to_prompt += _as_bias(seen, to_prompt.dtype)[:, None, None]
    scores = torch.cat([to_prompt.view(-1, repeat, length), to_own], -1)
    shares = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    mixed = shares.view(prompts, kv, -1, length + own)[..., :length] @ prompt_value
    mixed = mixed.view(-1, repeat, dim) + shares[..., length:] @ value
    return mixed.view(-1, repeat * dim).index_select(0, cache.unfold).view(rows, 1, heads, dim)


def vision_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention inside each segment of ``cu_seq_lens_q``; tensors are [1, heads, tokens, head_dim].

    Runs of equal length are computed together. Returns [1, tokens, heads, head_dim].
    """
    assert cu_seq_lens_q is not None and attention_mask is None and dropout == 0.0
    _, heads, _, dim = query.shape
    scaling = dim**-0.5 if scaling is None else scaling
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    outputs = []
    start = first = 0
    while first < len(lengths):
        last = first
        while last < len(lengths) and lengths[last] == lengths[first]:
            last += 1
        count, length = last - first, lengths[first]
        stop = start + count * length
        parts = [x[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value)]
        if length <= _SHORT_VISION and query.device.type == "cpu":
            output = attend(parts[0], parts[1], parts[2], bias=None, scaling=scaling)
        else:
            output = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], scale=scaling)
        outputs.append(output.transpose(1, 2).reshape(count * length, heads, dim))
        start, first = stop, last
    return torch.cat(outputs)[None], None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)
# Without a mask function beside it, transformers would silently drop padding masks of plain calls.
AttentionMaskInterface.register(SHARED_PROMPT, sdpa_mask)
AttentionInterface.register(VISION_ATTENTION, vision_attention)
AttentionMaskInterface.register(VISION_ATTENTION, _no_mask)
