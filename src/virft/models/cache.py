"""The key-value cache of sampling: every prompt stored once, every completion its own tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from virft.models.layout import AttentionLayout


class GroupCacheLayer(CacheLayerMixin):
    """One layer: ``prompt_keys`` [P, kv, L, d] and the rows' own keys [R, kv, max tokens, d]; values likewise."""

    prompt_keys: Tensor
    prompt_values: Tensor

    def __init__(self, layout: AttentionLayout, max_tokens: int) -> None:
        super().__init__()
        self._layout = layout
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._num_rows = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the prompts out of the packed row [1, kv, T, d] of the prefill."""
        self.prompt_keys, self.prompt_values = (self._prompts_of(x[0]) for x in (key_states, value_states))
        self.is_initialized = True

    def _prompts_of(self, row: Tensor) -> Tensor:
        prompts, length, _, _ = self._layout.table_shape
        kv, _, dim = row.shape
        table, _ = self._layout.to_tables(row.transpose(0, 1).flatten(1))
        return table.view(prompts, length, kv, dim).transpose(1, 2).contiguous()

    def start_rows(self, num_rows: int) -> None:
        """Make room for the rows' own tokens."""
        _, kv, _, dim = self.prompt_keys.shape
        self.keys = self.prompt_keys.new_empty(num_rows, kv, self._max_tokens, dim)
        self.values = torch.empty_like(self.keys)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Prefill: store the prompts, return the row as it came. Decoding: add one token a row, return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        at = self._num_tokens
        self.keys[:, :, at] = key_states[:, :, 0]
        self.values[:, :, at] = value_states[:, :, 0]
        self._num_tokens = at + 1
        return self.keys[:, :, : at + 1], self.values[:, :, : at + 1]

    def keep_rows(self, rows: Tensor, prompts: Tensor | None) -> None:
        """Drop every other row, and every other prompt unless ``prompts`` is None."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]
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
    """Cache of R rows that continue P prompts; rows that have ended are dropped with ``keep_rows``."""

    layers: list[GroupCacheLayer]

    def __init__(self, layout: AttentionLayout, num_layers: int, max_tokens: int) -> None:
        super().__init__(layers=[GroupCacheLayer(layout, max_tokens) for _ in range(num_layers)])
        self.decoding = False
        self.prompt_lengths = layout.prompt_lengths
        self.equal_prompts = layout.equal_prompts

    def start_rows(self, group_size: int) -> None:
        """After the prefill: ``group_size`` rows for every prompt, in the order of the prompts."""
        for layer in self.layers:
            assert layer.is_initialized, "the prefill did not reach this layer: is gradient checkpointing on?"
            layer.start_rows(len(self.prompt_lengths) * group_size)
        self.decoding = True
        device = self.prompt_lengths.device
        self._index_rows(torch.arange(len(self.prompt_lengths), device=device).repeat_interleave(group_size))

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows only, [R'] in rising order."""
        prompt_of_row = self._prompt_of_row[rows]
        prompts, renumbered = torch.unique_consecutive(prompt_of_row, return_inverse=True)
        dropped_prompts = len(prompts) < len(self.prompt_lengths)
        for layer in self.layers:
            layer.keep_rows(rows, prompts if dropped_prompts else None)
        if dropped_prompts:
            self.prompt_lengths = self.prompt_lengths[prompts]
        self._index_rows(renumbered)

    def fold(self, num_heads: int) -> tuple[Tensor, Tensor]:
        """Where [prompt, head, row of the prompt] lies in [row, head], and where that lies in it: flat indices.

        A prompt with fewer rows than another is padded with any row.
        """
        if num_heads not in self._folds:
            heads = torch.arange(num_heads, device=self._prompt_of_row.device)
            width = self._rows_of_prompt.shape[1]
            fold = self._rows_of_prompt[:, None, :] * num_heads + heads[:, None]
            unfold = (self._prompt_of_row[:, None] * num_heads + heads) * width + self._place_in_prompt[:, None]
            self._folds[num_heads] = fold.flatten(), unfold.flatten()
        return self._folds[num_heads]

    def _index_rows(self, prompt_of_row: Tensor) -> None:
        counts = torch.bincount(prompt_of_row, minlength=len(self.prompt_lengths))
        starts = counts.cumsum(0) - counts
        numbers = torch.arange(len(prompt_of_row), device=prompt_of_row.device)
        self._prompt_of_row = prompt_of_row
        self._place_in_prompt = numbers - starts[prompt_of_row]
        self._rows_of_prompt = numbers.new_zeros(len(counts), int(counts.max()))
        self._rows_of_prompt[prompt_of_row, self._place_in_prompt] = numbers
        self._folds: dict[int, tuple[Tensor, Tensor]] = {}
