"""The key-value cache of sampling: every prompt stored once, every completion its own tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from virft.models.attention.layout import AttentionLayout


class GroupCacheLayer(CacheLayerMixin):
    """One layer: keys of the prompts [P, kv, L, d] and of the rows' own tokens [P * kv * W, max tokens, d]; values too.

    Each prompt has W places for its rows, see ``GroupCache.fold``.
    """

    prompt_keys: Tensor
    prompt_values: Tensor

    def __init__(self, layout: AttentionLayout, max_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layout = layout
        self._max_tokens = max_tokens
        self._num_tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the prompts out of the packed row [1, kv, T, d] of the prefill."""
        self.prompt_keys, self.prompt_values = (self._prompts_of(x[0]) for x in (key_states, value_states))
        self.is_initialized = True

    def _prompts_of(self, row: Tensor) -> Tensor:
        prompts, length, _, _ = self._layout.table_shape
        kv, _, dim = row.shape
        table, _ = self._layout.to_tables(row.transpose(0, 1).flatten(1))
        return table.view(prompts, length, kv, dim).transpose(1, 2).contiguous()

    def start_rows(self, fold: Tensor) -> None:
        """Make room for the rows' own tokens."""
        self._fold = fold
        self.keys = self.prompt_keys.new_empty(len(fold), self._max_tokens, self.prompt_keys.shape[-1])
        self.values = torch.empty_like(self.keys)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Prefill: store the prompts, return the row as it came. Decoding: add one token a row, return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        at = self._num_tokens
        for kept, new in ((self.keys, key_states), (self.values, value_states)):  # new: [R, kv, 1, d]
            kept[:, at] = new.reshape(-1, new.shape[-1]).index_select(0, self._fold)
        self._num_tokens = at + 1
        return self.keys[:, : at + 1], self.values[:, : at + 1]

    def keep_rows(self, places: Tensor, fold: Tensor, prompts: Tensor | None) -> None:
        """Take the rows from ``places``, and drop every prompt but ``prompts`` unless that is None."""
        assert self.keys is not None and self.values is not None
        self._fold = fold
        self.keys, self.values = self.keys.index_select(0, places), self.values.index_select(0, places)
        if prompts is not None:
            self.prompt_keys, self.prompt_values = self.prompt_keys[prompts], self.prompt_values[prompts]

    def get_seq_length(self) -> int:
        """Own tokens of a row. Positions are never derived from it."""
        return self._num_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Not used: masks follow from the layout."""
        raise NotImplementedError("the group cache makes no masks")

    def get_max_length(self) -> int:
        """Own tokens that fit."""
        return self._max_tokens


class GroupCache(Cache):
    """Cache of R rows that continue P prompts; rows that have ended are dropped with ``keep_rows``.

    The rows of a prompt are kept side by side, in W places for each prompt and head (W: rows of the prompt that has
    most), so that they share one product with its keys. ``fold`` [P * kv * W] says which of [R, kv] is in each
    place (spare places: any), ``unfold`` [R * kv] where each of them is.
    """

    layers: list[GroupCacheLayer]  # type: ignore[assignment]
    fold: Tensor
    unfold: Tensor

    def __init__(self, layout: AttentionLayout, num_layers: int, max_tokens: int) -> None:
        super().__init__(layers=[GroupCacheLayer(layout, max_tokens) for _ in range(num_layers)])
        self.decoding = False
        self.prompt_lengths = layout.prompt_lengths
        self.equal_prompts = layout.equal_prompts

    def start_rows(self, group_size: int) -> None:
        """After the prefill: ``group_size`` rows for every prompt, in the order of the prompts."""
        for layer in self.layers:
            assert layer.is_initialized, "the prefill did not reach this layer: is gradient checkpointing on?"
        prompts = torch.arange(len(self.prompt_lengths), device=self.prompt_lengths.device)
        self._index_rows(prompts.repeat_interleave(group_size))
        for layer in self.layers:
            layer.start_rows(self.fold)
        self.decoding = True

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows only, [R'] in rising order."""
        prompts, renumbered = torch.unique_consecutive(self._prompt_of_row[rows], return_inverse=True)
        dropped_prompts = len(prompts) < len(self.prompt_lengths)
        if dropped_prompts:
            self.prompt_lengths = self.prompt_lengths[prompts]
        places = self.unfold.view(len(self._prompt_of_row), -1)[rows].flatten()
        self._index_rows(renumbered)
        for layer in self.layers:
            layer.keep_rows(places[self.fold], self.fold, prompts if dropped_prompts else None)

    def _index_rows(self, prompt_of_row: Tensor) -> None:
        counts = torch.bincount(prompt_of_row, minlength=len(self.prompt_lengths))
        numbers = torch.arange(len(prompt_of_row), device=prompt_of_row.device)
        place = numbers - (counts.cumsum(0) - counts)[prompt_of_row]
        rows = numbers.new_zeros(len(counts), 1, int(counts.max()))  # [P, 1, W]
        rows[prompt_of_row, 0, place] = numbers
        num_heads = self.layers[0].prompt_keys.shape[1]
        heads = torch.arange(num_heads, device=prompt_of_row.device)
        self._prompt_of_row = prompt_of_row
        self.fold = (rows * num_heads + heads[:, None]).flatten()
        self.unfold = ((prompt_of_row[:, None] * num_heads + heads) * rows.shape[-1] + place[:, None]).flatten()
