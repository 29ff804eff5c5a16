"""Attention functions that virft registers with transformers: prefix sharing, and fast paths for CPUs.

``SHARED_PROMPT`` (language model): in a packed row each completion attends to its prompt and to itself, and the prompt
is computed once; in a decode step, the KV cache holds each prompt once. Calls with neither a layout nor a cache of
virft are plain scaled dot-product attention (SDPA), so the name may stay set on the model.

``VISION_ATTENTION`` (vision tower): images of equal size as one batched product. Without flash attention,
transformers loops over the images in Python.

On a CPU, plain matrix products are faster than PyTorch's fused SDPA kernel for short sequences, most of all backwards
(7 times in a tower of 64-token images, see docs/log.md). The scores of a group are larger: above a certain size the
fused kernel computes them in two parts, see ``virft.models.attention.merged``. On a GPU in half precision, one kernel
computes a packed row without tables of scores, see ``virft.models.attention.varlen``.

Shapes use these letters: P prompts of at most L tokens, G completions of at most C tokens for each, R rows of a decode
step, ``kv`` KV heads, ``repeat`` query heads for each KV head (grouped-query attention), d the head dimension.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from virft.models.attention.cache import GroupCache
from virft.models.attention.cache import lowest_where_hidden as _as_bias
from virft.models.attention.layout import AttentionLayout
from virft.models.attention.merged import MergedAttention
from virft.models.attention.varlen import takes_varlen, varlen_attention, widened

SHARED_PROMPT = "virft_shared_prompt"
# transformers passes ``cu_seq_lens_q`` only to implementations with "flash" in their name.
VISION_ATTENTION = "virft_flash_vision"

_SHORT_VISION = 256
"""Tokens of an image up to which plain matrix products are faster than the fused kernel on a CPU."""
_SHORT_PROMPT = 256
"""Tokens of a prompt up to which plain matrix products are faster than the fused kernel on a CPU."""
_SMALL_TABLES = 2**22
"""Scores of completions up to which a table of them is as fast as the fused kernel; larger ones leave the CPU cache."""


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """Return softmax attention over the last two axes, [..., tokens, d].

    Tensors are [..., tokens, d] with equal (or broadcastable) leading axes. ``bias`` [..., queries, keys] is added to
    the scores, see ``causal_bias``.

    Formula: softmax(scaling * Q K^T + bias) V. Source: Attention Is All You Need (arXiv 1706.03762).
    """
    # The query is scaled, not the scores, of which there are more.
    scores = (query * scaling) @ key.transpose(-1, -2)
    if bias is not None:
        scores += bias
    # Softmax in float32, as transformers computes it: in bfloat16 the weights would add up to 1 only roughly.
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def causal_bias(tokens: int, window: int | None, repeat: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the bias of causal attention, [repeat * tokens, tokens] of ``dtype``.

    It is 0 where a query attends to a key (its own token and earlier ones, fewer than ``window`` tokens away), else the
    lowest finite number. The lines repeat for each query head of a KV head. Added in place, a bias costs nothing
    backwards; a boolean mask would copy the scores in both directions.
    """
    # Cached: all layers of a row need the same one. Not an inference tensor, or a bias that was first made while
    # sampling could not be saved for a backward.
    steps = torch.arange(tokens, device=device)
    back = steps[:, None] - steps  # [tokens, tokens]: distance from a query back to a key
    seen = back >= 0 if window is None else (back >= 0) & (back < window)
    return _as_bias(seen, dtype).repeat(repeat, 1)


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
    """Attention of a packed row (``group_layout``), of one decode step (``group_cache``), or plain SDPA (neither).

    Packed row: ``query`` [1, heads, T, d], ``key`` and ``value`` [1, kv, T, d]. Decode step: ``query``
    [R, heads, 1, d], ``key`` and ``value`` as returned by ``GroupCacheLayer.update``. Returns the output
    [batch, tokens, heads, d] and None in place of attention weights. Equal to SDPA with a dense mask up to rounding.
    """
    # The signature is that of transformers' attention functions; arguments of ours arrive through the model's kwargs.
    if group_layout is None and group_cache is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert dropout == 0.0, "dropout would make sampler and policy differ"
    # Prefill and update take the same path: on-policy log-probs differ from the sampler's by rounding alone.
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if group_cache is not None and group_cache.decoding:
        return _decode(query, key, value, scaling, sliding_window, group_cache, int(module.layer_idx)), None  # type: ignore[arg-type]
    assert group_layout is not None
    # Not indexed: the gradient of an index is a copy, of a view it is not.
    query, key, value = (x.squeeze(0) for x in (query, key, value))
    return _packed(query, key, value, scaling, sliding_window, group_layout), None


def _packed(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, layout: AttentionLayout
) -> Tensor:
    """Prompts causally, completions over [prompt | own tokens]. Tensors are [heads, T, d]; returns [1, T, heads, d]."""
    if takes_varlen(query, value, layout):
        return varlen_attention(query, key, value, scaling, window, layout.segments)
    heads, _, dim = query.shape
    kv = key.shape[0]
    repeat = heads // kv
    prompts, length, group, size = layout.table_shape
    # Heads move behind tokens, [heads, T, d] -> [T, heads * d], so that the copy into the tables is of whole lines.
    (prompt_query, own_query), (prompt_key, own_key), (prompt_value, own_value) = (
        layout.to_tables(x.transpose(0, 1).flatten(1)) for x in (query, key, value)
    )

    # Query heads of one KV head are neighbours: heads = kv * repeat, in this order.
    prompt_query = prompt_query.view(prompts, length, kv, repeat, dim)  # [P, L, kv, repeat, d]
    prompt_query = prompt_query.permute(0, 2, 3, 1, 4)  # [P, kv, repeat, L, d]
    prompt_key, prompt_value = (
        x.view(prompts, length, kv, dim).transpose(1, 2)  # [P, L, kv, d] -> [P, kv, L, d]
        for x in (prompt_key, prompt_value)
    )
    output = _prompt_attention(prompt_query, prompt_key, prompt_value, scaling, window, layout.image_blocks)
    # [P, kv, repeat, L, d] -> [P, L, kv, repeat, d] -> [P * L, heads * d]
    table = output.permute(0, 3, 1, 2, 4).reshape(prompts * length, heads * dim)

    if group:  # a prefill has no completions yet
        own_query = own_query.view(prompts, group, size, kv, repeat, dim)  # [P, G, C, kv, repeat, d]
        own_query = own_query.permute(0, 3, 1, 4, 2, 5)  # [P, kv, G, repeat, C, d]
        own_key, own_value = (
            x.view(prompts, group, size, kv, dim).permute(0, 3, 1, 2, 4)  # [P, G, C, kv, d] -> [P, kv, G, C, d]
            for x in (own_key, own_value)
        )
        own = _completion_attention(own_query, own_key, own_value, prompt_key, prompt_value, scaling, window, layout)
        # [P, kv, G, repeat, C, d] -> [P, G, C, kv, repeat, d] -> [P * G * C, heads * d]
        own = own.permute(0, 2, 4, 1, 3, 5).reshape(-1, heads * dim)
        table = torch.cat([table, own])  # [P * L + P * G * C, heads * d]
    # Padding of both tables is dropped here, so what was computed for it does not matter.
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
    as_on_gpu = query.device.type != "cpu" or layout.method is not None
    # The fused kernel knows no sliding window across the two sets of keys; with a window the tables remain.
    if not as_on_gpu and window is None and is_large:
        bias = None if layout.equal_prompts else _as_bias(_prompt_seen(layout, None)[:, :1], value.dtype)  # [P, 1, L]
        merged: Tensor = MergedAttention.apply(  # type: ignore[no-untyped-call]
            # Heads of one KV head are more queries of it, [P, kv, G, repeat * C, d]; then P and kv are one batch axis.
            # Autocast leaves rotated queries and keys in float32, and no kernel takes two dtypes.
            *(x.flatten(0, 1).to(value.dtype) for x in (query.flatten(3, 4), key, value, prompt_key, prompt_value)),
            causal_bias(size, None, repeat, value.dtype, query.device),
            None if bias is None else bias.repeat_interleave(query.shape[1], 0)[:, None],  # [P * kv, 1, 1, L]
            scaling,
        )
        return merged.view(query.shape)

    # Fold: all queries that share a prompt's keys become the lines of one matrix, so that one product reads the keys
    # once. Unfold: the same numbers as one matrix per completion, for the keys of its own.
    #
    #     folded [P, kv, G * repeat * C, d]        unfolded [P, kv, G, repeat * C, d]
    #     c1 head 0   \                            c1: head 0, head 1   @ own keys of c1 [d, C]
    #     c1 head 1    | @ prompt keys [d, L]      c2: head 0, head 1   @ own keys of c2 [d, C]
    #     c2 head 0    |
    #     c2 head 1   /
    # Scores are not rounded to bfloat16: with large ones, attention would be off by several percent.
    with torch.autocast(query.device.type, enabled=False) if as_on_gpu else nullcontext():
        if as_on_gpu:
            query, key, prompt_key = (widened(x) for x in (query, key, prompt_key))
        folded = (query * scaling).flatten(2, 4)  # [P, kv, G * repeat * C, d]
        to_prompt = (folded @ prompt_key.transpose(-1, -2)).unflatten(
            2, (group, repeat * size)
        )  # [P, kv, G, repeat * C, L]
        to_own = folded.unflatten(2, (group, repeat * size)) @ key.transpose(-1, -2)  # [P, kv, G, repeat * C, C]
    to_own += causal_bias(size, window, repeat, to_own.dtype, to_own.device)
    if window is not None or not layout.equal_prompts:
        seen = _prompt_seen(layout, window).repeat(1, repeat, 1)  # [P, repeat * C, L]
        to_prompt += _as_bias(seen, to_prompt.dtype)[:, None, None]
    # One softmax over both sets of keys: [P, kv, G, repeat * C, L + C].
    weights = torch.softmax(torch.cat([to_prompt, to_own], -1), -1, dtype=torch.float32).to(value.dtype)
    prompt_weights, own_weights = weights.split([length, size], -1)
    # Folded once more for the prompt's values: [P, kv, G * repeat * C, L] @ [P, kv, L, d].
    mixed: Tensor = (prompt_weights.flatten(2, 3) @ prompt_value).unflatten(2, (group, repeat * size))
    mixed = mixed + own_weights @ value  # [P, kv, G, repeat * C, d]
    return mixed.view(query.shape)


def _prompt_seen(layout: AttentionLayout, window: int | None) -> Tensor:
    """True where a completion's token attends to a token of its prompt: bool [P, C, L]."""
    _, length, _, size = layout.table_shape
    lengths = layout.prompt_lengths[:, None, None]  # [P, 1, 1]
    columns = torch.arange(length, device=lengths.device)
    steps = torch.arange(size, device=lengths.device)[:, None]
    inside = (columns < lengths).expand(-1, size, -1)  # all but padding: [P, C, L]
    # A sliding window counts tokens of the sequence [prompt | completion], in which completion token i is number
    # L_p + i, not places of the packed row, where other completions lie between.
    return inside if window is None else inside & (lengths + steps - columns < window)


def _two_way_bias(blocks: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """Bias of attention that is causal but bidirectional inside images: [P, 1, L, L] of ``image_blocks`` [P, L].

    Source: ``create_masks_for_vision_model`` of Gemma 3 in transformers.
    """
    steps = torch.arange(blocks.shape[1], device=blocks.device)
    back = steps[:, None] - steps  # [L, L]
    # Text has block -1: two text tokens are not of one image, so the block itself is tested as well.
    seen = (back >= 0) | ((blocks[:, :, None] == blocks[:, None]) & (blocks >= 0)[:, None])  # [P, L, L]
    return _as_bias(seen if window is None else seen & (back < window), dtype)[:, None]


def _prompt_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, blocks: Tensor | None
) -> Tensor:
    """Attention of prompts [P, kv, repeat, L, d] over [P, kv, L, d], causal but for images of ``blocks``."""
    # Padding is on the right, so a causal mask hides it from every real token; no other mask is needed.
    repeat, length = query.shape[2:4]
    both_ways = None if blocks is None else _two_way_bias(blocks, window, query.dtype)
    if query.device.type == "cpu" and length <= _SHORT_PROMPT:
        bias = causal_bias(length, window, repeat, query.dtype, query.device)
        if both_ways is not None:
            bias = both_ways.repeat(1, 1, repeat, 1)  # [P, 1, repeat * L, L]
        # The heads of one KV head as more queries of it: [P, kv, repeat * L, d].
        return attend(query.flatten(2, 3), key, value, bias, scaling).view(query.shape)
    # The fused kernel takes no grouped heads together with a mask: [P, kv, L, d] -> [P, heads, L, d].
    key, value = (x.repeat_interleave(repeat, 1) for x in (key, value))
    is_causal = both_ways is None and (window is None or window >= length)
    mask = both_ways
    if mask is None and not is_causal:
        mask = causal_bias(length, window, 1, query.dtype, query.device)
    output = F.scaled_dot_product_attention(
        query.flatten(1, 2), key, value, attn_mask=mask, is_causal=is_causal, scale=scaling
    )
    return output.reshape(query.shape)


def _decode(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, cache: GroupCache, layer: int
) -> Tensor:
    """One decode step: ``query`` [R, heads, M, d]; ``key`` and ``value`` [P * kv * W, t, d] as the cache stores them.

    Returns [R, M, heads, d]. W places for the rows of each prompt, see ``GroupCache``; t own tokens of a row, the M
    newest included. M is 1, except in a step that ``GroupCache.extend`` prepares.
    """
    rows, heads, count, dim = query.shape
    stored = cache.layer_of(layer)
    prompt_key, prompt_value = stored.prompt_keys, stored.prompt_values
    prompts, kv, length, _ = prompt_key.shape
    own, repeat = key.shape[1], heads // kv * count
    # Rows of one prompt move next to each other, so that its keys are read once for all of them:
    #
    #     rows [R * kv, repeat * d]            places [P * kv * W, repeat * d]
    #     r0 h0, r0 h1, r1 h0, r1 h1   fold    p1 h0: r0 r1   @ prompt keys of p1 h0 [d, L]
    #     r2 h0, r2 h1                 --->    p1 h1: r0 r1   @ prompt keys of p1 h1
    #                                          p2 h0: r2 -    @ prompt keys of p2 h0
    #                                          p2 h1: r2 -    @ prompt keys of p2 h1
    #
    # There is one new token per row, so query heads of a KV head take the axis of query tokens: no mask is needed
    # among them, and K and V are not copied for each head as SDPA does it with grouped heads. M new tokens are as many
    # more query heads (``repeat`` counts both), with a mask.
    is_wide = _has_wide_products(key)
    folded = query.reshape(rows * kv, repeat * dim)
    # Wide scores are scaled below, as the kernel of the update does it: the query is then rounded as there.
    folded = (folded if is_wide else folded * scaling).index_select(0, cache.fold)  # [P * kv * W, repeat * d]
    folded = folded.to(key.dtype)  # once, where autocast would cast it for both products
    to_prompt = _scores(folded.view(prompts * kv, -1, dim), prompt_key.flatten(0, 1))
    to_prompt = to_prompt.view(prompts, kv, -1, length)  # [P, kv, W * repeat, L]
    to_own = _scores(folded.view(-1, repeat, dim), key)  # [P * kv * W, repeat, t]
    if cache.newest is None:
        if (bias := cache.prompt_bias(window, own, to_prompt.dtype)) is not None:
            to_prompt += bias
        if window is not None:
            to_own[..., : max(0, own - window)] = torch.finfo(to_own.dtype).min
        if (hidden := cache.own_bias(own, count, to_own.dtype)) is not None:
            to_own += hidden.repeat(1, repeat // count, 1)  # heads first, then tokens
    scores = torch.cat([to_prompt.view(-1, repeat, length), to_own], -1)  # [P * kv * W, repeat, L + t]
    if cache.newest is not None:
        scores.view(prompts, -1, length + own).add_(cache.static_bias(window, scores.dtype))
    if is_wide:
        scores *= scaling  # hidden scores stay far below all others
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    mixed = weights.view(prompts, kv, -1, length + own)[..., :length] @ prompt_value  # [P, kv, W * repeat, d]
    mixed = mixed.view(-1, repeat, dim) + weights[..., length:] @ value  # [P * kv * W, repeat, d]
    # Unfold, which drops spare places: [P * kv * W, repeat * d] -> [R * kv, repeat * d] -> [R, M, heads, d].
    return mixed.view(-1, repeat * dim).index_select(0, cache.unfold).view(rows, heads, count, dim).transpose(1, 2)


def _has_wide_products(keys: Tensor) -> bool:
    """True where a product of half precision can have a result in float32: with CUDA."""
    return keys.device.type == "cuda" and keys.dtype in (torch.bfloat16, torch.float16) and torch.version.hip is None


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Products of queries [N, Q, d] and keys [N, K, d]: [N, Q, K], in float32 where ``_has_wide_products``.

    Rounded to bfloat16, large scores would move log-probs, see docs/design.md.
    """
    if _has_wide_products(keys):
        return torch.bmm(queries, keys.transpose(-1, -2), out_dtype=torch.float32)
    return queries @ keys.transpose(-1, -2)


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
    """Attention inside each segment of a vision tower's row: an image, or a window of one (Qwen2.5-VL).

    Tensors are [1, heads, tokens, d]. ``cu_seq_lens_q``: int [segments + 1], where segments begin and end. Returns the
    output [1, tokens, heads, d] and None in place of attention weights. Neighbouring segments of equal length are
    computed in one batch.
    """
    assert cu_seq_lens_q is not None and attention_mask is None and dropout == 0.0
    _, heads, _, dim = query.shape
    scaling = dim**-0.5 if scaling is None else scaling
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    outputs = []
    start = first = 0
    while first < len(lengths):
        last = first
        # A run of segments of equal length is one batch without padding.
        while last < len(lengths) and lengths[last] == lengths[first]:
            last += 1
        count, length = last - first, lengths[first]
        stop = start + count * length
        # [heads, count * length, d] -> [heads, count, length, d] -> [count, heads, length, d]
        queries, keys, values = (
            x[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value)
        )
        if length <= _SHORT_VISION and query.device.type == "cpu":
            output = attend(queries, keys, values, bias=None, scaling=scaling)
        else:
            output = F.scaled_dot_product_attention(queries, keys, values, scale=scaling)
        outputs.append(output.transpose(1, 2).reshape(count * length, heads, dim))  # [count * length, heads, d]
        start, first = stop, last
    return torch.cat(outputs)[None], None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)
# Without a mask function of the same name, transformers would silently drop padding masks of plain calls.
AttentionMaskInterface.register(SHARED_PROMPT, sdpa_mask)
AttentionInterface.register(VISION_ATTENTION, vision_attention)
AttentionMaskInterface.register(VISION_ATTENTION, _no_mask)
