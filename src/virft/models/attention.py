"""Attention functions that virft registers with transformers.

``SHARED_PROMPT`` (language model): in a packed row each completion sees its prompt and itself, and the prompt is
computed once; in decoding, the cache holds each prompt once. Calls that carry neither layout nor cache of ours
are plain scaled dot-product attention, so the name may stay set on the model.

``VISION_ATTENTION`` (vision tower): images of equal size as one batched product. Without flash attention,
transformers loops over the images in Python.

On a CPU, plain matrix products beat PyTorch's fused kernel for short sequences, most of all backwards
(7 times in a tower of 64-token images, see docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from virft.models.cache import GroupCache
from virft.models.layout import AttentionLayout

SHARED_PROMPT = "virft_shared_prompt"
# transformers hands over ``cu_seq_lens_q`` only where the implementation's name contains "flash"
VISION_ATTENTION = "virft_flash_vision"

_SHORT_VISION = 256
_SHORT_PROMPT = 512


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Softmax attention over the last two axes; ``mask`` is boolean, True where a key is seen.

    All tensors are [..., tokens, head_dim] with equal leading axes (or broadcastable).
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value


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
    [R, kv heads, t, d]. Returns [batch, tokens, heads, d]. Equal to a dense mask up to rounding.
    """
    if group_layout is None and group_cache is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
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
    places, lengths = layout.prompt_index, layout.prompt_lengths
    prompts, length = places.shape
    prompt_query, prompt_key, prompt_value = (x[:, places].transpose(0, 1) for x in (query, key, value))  # [P, h, L, d]
    answers = _prompt_attention(prompt_query, prompt_key, prompt_value, scaling, window)
    table = answers.transpose(1, 2).reshape(prompts * length, heads, dim)
    if layout.has_completions:
        _, group, size = layout.completion_index.shape
        # [h, P, G, C, d] -> [P, kv, G, repeat, C, d]
        own_query = query[:, layout.completion_index].unflatten(0, (kv, repeat)).permute(2, 0, 3, 1, 4, 5) * scaling
        own_key, own_value = (x[:, layout.completion_index].permute(1, 0, 2, 3, 4) for x in (key, value))
        flat = own_query.flatten(2, 4)  # the heads and completions that share a prompt's keys: [P, kv, G * r * C, d]
        to_prompt = (flat @ prompt_key.transpose(-1, -2)).unflatten(2, (group, repeat, size))  # [P, kv, G, r, C, L]
        to_own = own_query.flatten(3, 4) @ own_key.transpose(-1, -2)  # [P, kv, G, r * C, C]
        to_own = to_own.unflatten(3, (repeat, size))
        lowest = torch.finfo(to_own.dtype).min
        steps = torch.arange(size, device=query.device)
        back = steps[:, None] - steps[None, :]
        seen = back >= 0
        if window is not None:
            seen &= back < window
        to_own = to_own.masked_fill(~seen, lowest)
        if window is not None or not layout.equal_prompts:
            columns = torch.arange(length, device=query.device)
            inside = (columns < lengths[:, None])[:, None, :].expand(-1, size, -1)  # [P, C, L]
            if window is not None:
                distance = lengths[:, None, None] + steps[:, None] - columns
                inside = inside & (distance < window)
            to_prompt = to_prompt.masked_fill(~inside[:, None, None, None], lowest)
        shares = torch.softmax(torch.cat([to_prompt, to_own], -1), -1, dtype=torch.float32).to(value.dtype)
        mixed = (shares[..., :length].flatten(2, 4) @ prompt_value).unflatten(2, (group, repeat, size))
        mixed = mixed + (shares[..., length:].flatten(3, 4) @ own_value).unflatten(3, (repeat, size))
        # [P, kv, G, repeat, C, d] -> [P * G * C, heads, d]
        table = torch.cat([table, mixed.permute(0, 2, 4, 1, 3, 5).reshape(-1, heads, dim)])
    return table[layout.table_slot][None]


def _prompt_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
    """Causal attention of [P, heads, L, d]; prompts are padded on the right, where no real token looks."""
    heads, length = query.shape[1:3]
    repeat = heads // key.shape[1]
    steps = torch.arange(length, device=query.device)
    back = steps[:, None] - steps[None, :]
    if query.device.type == "cpu" and length <= _SHORT_PROMPT:
        seen = back >= 0 if window is None else (back >= 0) & (back < window)
        folded = query.unflatten(1, (-1, repeat)).flatten(2, 3)  # [P, kv, repeat * L, d]
        return attend(folded, key, value, seen.repeat(repeat, 1), scaling).unflatten(2, (repeat, length)).flatten(1, 2)
    if repeat > 1:
        key, value = (x.repeat_interleave(repeat, 1) for x in (key, value))
    if window is None or window >= length:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    seen = (back >= 0) & (back < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)


def _decode(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, cache: GroupCache, layer: int
) -> Tensor:
    """One new token per row: ``query`` [R, heads, 1, d]; ``key``, ``value`` [R, kv, t, d] are the rows' own tokens.

    Rows of one prompt are folded into one product with its keys, which are stored once. Returns [R, 1, heads, d].
    """
    rows, heads, _, dim = query.shape
    kv, own = key.shape[1], key.shape[2]
    repeat = heads // kv
    prompt_key, prompt_value = cache.layers[layer].prompt_keys, cache.layers[layer].prompt_values
    length = prompt_key.shape[2]
    q = query.view(rows, kv, repeat, dim) * scaling
    fold = cache.rows_of_prompt  # [P, G]: rows of each prompt, padded with any row
    folded = q[fold].transpose(1, 2).flatten(2, 3)  # [P, kv, G * repeat, d]
    to_prompt = (folded @ prompt_key.transpose(-1, -2)).unflatten(2, (-1, repeat)).transpose(1, 2)  # [P, G, kv, r, L]
    to_prompt = to_prompt.flatten(0, 1)[cache.slot_of_row]  # [R, kv, r, L]
    if window is not None or not cache.equal_prompts:
        lengths = cache.prompt_lengths[cache.prompt_of_row, None]
        columns = torch.arange(length, device=query.device)
        seen = columns < lengths
        if window is not None:
            seen &= lengths + own - 1 - columns < window
        to_prompt = to_prompt.masked_fill(~seen[:, None, None], torch.finfo(q.dtype).min)
    to_own = q @ key.transpose(-1, -2)  # [R, kv, r, t]
    if window is not None and own > window:
        to_own[..., : own - window] = torch.finfo(q.dtype).min
    shares = torch.softmax(torch.cat([to_prompt, to_own], -1), -1, dtype=torch.float32).to(value.dtype)
    from_prompt = shares[..., :length][fold].transpose(1, 2).flatten(2, 3) @ prompt_value  # [P, kv, G * r, d]
    mixed = from_prompt.unflatten(2, (-1, repeat)).transpose(1, 2).flatten(0, 1)[cache.slot_of_row]
    mixed = mixed + shares[..., length:] @ value
    return mixed.reshape(rows, 1, heads, dim)


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
            output = attend(parts[0], parts[1], parts[2], mask=None, scaling=scaling)
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
