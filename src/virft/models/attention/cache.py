"""The KV cache of sampling: each prompt once (prefix sharing), each completion its own tokens.

transformers' caches repeat the prompt for every completion. Here R completions ("rows") of P prompts share it::

    prompt_keys [P, kv, L, d]        keys [P * kv * W, max tokens, d]
    p1  k k k k                      p1  c11  k k ..
    p2  k k k -                          c12  k k ..
                                     p2  c21  k k ..
                                         -    (spare place: W is 2 for every prompt)

Values are stored in the same way. Prefill fills the left side with one forward pass of a packed row of prompts. Each
decode step adds one token per row to the right side. Rows that have ended are dropped with ``GroupCache.keep_rows``,
and a prompt is dropped with the last of its rows; or another prompt takes its place, with
``GroupCache.replace_prompts``. Numbers are stored in the dtype of matrix products, so autocast need not cast the whole
cache for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, CacheLayerMixin

from virft.models.attention.layout import AttentionLayout


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that a tensor of any shape has in a matrix product: autocast's where it is on, else its own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def lowest_where_hidden(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bias of the shape of ``seen`` (bool): 0 where it is true, else the lowest finite number of ``dtype``."""
    # The lowest finite number, as in transformers' masks: with minus infinity, a line without any key would be NaN.
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


_PROMPT_ROOM = 64
"""Places of prompts that are replaced by a longer one grow to a multiple of this, because growing copies them."""


class GroupCacheLayer(CacheLayerMixin):
    """KV cache of one decoder layer.

    ``prompt_keys`` and ``prompt_values`` [P, kv, L, d] hold the prompts, ``keys`` and ``values``
    [P * kv * W, max tokens, d] the rows' own tokens. Each prompt has W places for its rows, see ``GroupCache``.
    """

    prompt_keys: Tensor
    prompt_values: Tensor

    def __init__(self, layout: AttentionLayout, max_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layout = layout
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self.write_at: Tensor | None = None
        self.span = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Store the prompts from the keys and values of the prefill's packed row, [1, kv, T, d] each."""
        self.prompt_keys, self.prompt_values = (self._prompts_of(x[0]) for x in (key_states, value_states))
        self.is_initialized = True

    def _prompts_of(self, row: Tensor) -> Tensor:
        prompts, length, _, _ = self._layout.table_shape
        kv, _, dim = row.shape
        table, _ = self._layout.to_tables(row.transpose(0, 1).flatten(1))  # [T, kv * d] -> [P * L, kv * d]
        # [P, L, kv, d] -> [P, kv, L, d]; contiguous, because every decode step multiplies by it
        return table.view(prompts, length, kv, dim).transpose(1, 2).contiguous().to(product_dtype(row))

    def start_rows(self, fold: Tensor) -> None:
        """Allocate memory for the rows' own tokens. ``fold``: int64 [P * kv * W], see ``GroupCache``."""
        self._fold = fold
        # Allocated once for all tokens: growing by concatenation would copy the whole cache at each decode step.
        self.keys = self.prompt_keys.new_empty(len(fold), self._max_tokens, self.prompt_keys.shape[-1])
        self.values = torch.empty_like(self.keys)

    def make_static(self) -> None:
        """Write each later token where ``write_at`` says at the time."""
        assert self.keys is not None and self.values is not None
        # Attention reads what is not written yet, with weight 0, and 0 times NaN would be NaN.
        self.keys.zero_()
        self.values.zero_()

    def resume_rows(self, fold: Tensor, keys: Tensor, values: Tensor, room: int) -> None:
        """Store own tokens of the rows, [R, kv, N, d] each, and allocate memory for ``room`` more.

        ``fold``: int64 [P * kv * W], see ``GroupCache``.
        """
        self._fold = fold
        self._num_tokens = keys.shape[2]
        self._max_tokens = self._num_tokens + room
        self.keys = self.prompt_keys.new_empty(len(fold), self._max_tokens, self.prompt_keys.shape[-1])
        self.values = torch.empty_like(self.keys)
        for stored, own in ((self.keys, keys), (self.values, values)):
            stored[:, : self._num_tokens] = own.flatten(0, 1).index_select(0, fold)  # [R * kv, N, d]

    def own_tokens(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the own keys and values in some places, int64 [N]: copies [N, t, d] each."""
        assert self.keys is not None and self.values is not None
        return tuple(x.index_select(0, places)[:, : self._num_tokens] for x in (self.keys, self.values))  # type: ignore[return-value]

    def replace_prompts(self, places: Tensor, other: GroupCacheLayer) -> None:
        """Overwrite the prompts with the numbers ``places``, int64 [N], by the N prompts of another cache, in order."""
        (_, _, room, _), (_, _, length, _) = self.prompt_keys.shape, other.prompt_keys.shape
        if length > room:
            added = (0, 0, 0, -length % _PROMPT_ROOM + length - room)
            self.prompt_keys, self.prompt_values = (F.pad(x, added) for x in (self.prompt_keys, self.prompt_values))
        # What is left of a longer prompt is hidden by the bias.
        self.prompt_keys[:, :, :length].index_copy_(0, places, other.prompt_keys)
        self.prompt_values[:, :, :length].index_copy_(0, places, other.prompt_values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values, and return those that attention needs.

        Prefill: takes and returns those of the packed row, [1, kv, T, d] each. Decode step: takes M tokens per row,
        [R, kv, M, d] each, and returns all t own tokens of the rows, [P * kv * W, t, d] each; with ``write_at``, the
        first ``span`` of them, written or not. M is 1, except in a step that ``GroupCache.extend`` prepares.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        if self.write_at is not None:
            for stored, new in ((self.keys, key_states), (self.values, value_states)):
                folded = new.reshape(-1, new.shape[-1]).index_select(0, self._fold).to(stored.dtype)
                stored.view(-1, stored.shape[-1]).index_copy_(0, self.write_at, folded)  # [P * kv * W, d]
            return self.keys[:, : self.span], self.values[:, : self.span]
        at, after = self._num_tokens, self._num_tokens + key_states.shape[2]
        for stored, new in ((self.keys, key_states), (self.values, value_states)):
            # [R, kv, M, d] -> [R * kv, M, d] -> [P * kv * W, M, d]; spare places get a copy of some row, which is not
            # read. Autocast leaves rotated keys in float32; they are rounded here.
            stored[:, at:after] = new.flatten(0, 1).index_select(0, self._fold)
        self._num_tokens = after
        return self.keys[:, :after], self.values[:, :after]

    def keep_rows(self, places: Tensor, fold: Tensor, prompts: Tensor | None) -> None:
        """Retain some rows and drop the others.

        ``places``: int64 [P' * kv * W'], the old place of each new one. ``fold``: the new ``GroupCache.fold``, of the
        same shape. ``prompts``: int64 [P'], the prompts to retain; None retains all.
        """
        assert self.keys is not None and self.values is not None
        self._fold = fold
        self.keys, self.values = self.keys.index_select(0, places), self.values.index_select(0, places)
        if prompts is not None:
            self.prompt_keys, self.prompt_values = self.prompt_keys[prompts], self.prompt_values[prompts]

    def get_seq_length(self) -> int:
        """Return the number of own tokens of a row. Position ids are never derived from it."""
        return self._num_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Raise ``NotImplementedError``: masks follow from the layout, and transformers must not build one."""
        raise NotImplementedError("the group cache makes no masks")

    def get_max_length(self) -> int:
        """Return the number of own tokens of a row that fit."""
        return self._max_tokens


class GroupCache(Cache):
    """KV cache of R rows that continue P prompts.

    The rows of a prompt are adjacent, in W places for each prompt and KV head (W: the largest number of rows of a
    prompt), so that one matrix product computes the scores of all of them with the keys of their prompt. Two index
    tables translate: ``fold`` int64 [P * kv * W] gives the row and head (row * kv + head) in each place,
    ``unfold`` int64 [R * kv] the place of each row and head. Two KV heads, two rows of p1, one of p2, so W = 2::

        place             0      1      2      3      4      5      6      7
        prompt, head      p1 h0  p1 h0  p1 h1  p1 h1  p2 h0  p2 h0  p2 h1  p2 h1
        row, head         r0 h0  r1 h0  r0 h1  r1 h1  r2 h0  spare  r2 h1  spare
        fold              0      2      1      3      4      0      5      1

        row, head         r0 h0  r0 h1  r1 h0  r1 h1  r2 h0  r2 h1
        unfold            0      2      1      3      4      6
    """

    layers: list[GroupCacheLayer]  # type: ignore[assignment]
    fold: Tensor
    unfold: Tensor

    def __init__(self, layout: AttentionLayout, sources: Sequence[int], max_tokens: int) -> None:
        """``sources``: for each decoder layer, the number of the layer whose keys and values it uses."""
        num_layers = len(set(sources))  # layers that use those of another one are the last
        super().__init__(layers=[GroupCacheLayer(layout, max_tokens) for _ in range(num_layers)])
        self._sources = tuple(sources)
        self.decoding = False
        self.prompt_lengths = layout.prompt_lengths
        self.equal_prompts = layout.equal_prompts
        self.newest: Tensor | None = None
        self.own_seen: Tensor | None = None
        """Bool [R, n]: False where one of the first n own tokens of a row is padding; None: there is none."""
        self._own_biases: dict[int, Tensor] = {}
        self._biases: dict[int | None, tuple[int, Tensor]] = {}

    def layer_of(self, index: int) -> GroupCacheLayer:
        """Return the keys and values that a decoder layer uses."""
        return self.layers[self._sources[index]]

    def start_rows(self, group_size: int) -> None:
        """Begin decoding, after the prefill: ``group_size`` rows for every prompt, in the order of the prompts."""
        for layer in self.layers:
            # Gradient checkpointing sets the cache of a layer to None; decoding would then not see the prompt.
            assert layer.is_initialized, "the prefill did not reach this layer: is gradient checkpointing on?"
        self._index_rows(torch.arange(len(self.prompt_lengths)).repeat_interleave(group_size))
        for layer in self.layers:
            layer.start_rows(self.fold)
        self.decoding = True

    def keep_rows(self, rows: Tensor) -> None:
        """Continue with some of the rows only.

        ``rows``: their numbers, int64 [num_rows], on the CPU and in ascending order.
        """
        device = self.prompt_lengths.device
        # Ascending rows are grouped by prompt, so consecutive duplicates are all duplicates.
        prompts, renumbered = torch.unique_consecutive(self._prompt_of_row[rows], return_inverse=True)
        kept = None
        if len(prompts) < len(self.prompt_lengths):
            kept = prompts.to(device)
            self.prompt_lengths = self.prompt_lengths[kept]
        # Old places of the remaining rows, before `_index_rows` replaces both tables: [R', kv] -> [R' * kv].
        places = self._unfold.view(len(self._prompt_of_row), -1)[rows].flatten()
        self._index_rows(renumbered)
        places = places[self._fold].to(device)
        if self.own_seen is not None:
            self.own_seen = self.own_seen[rows.to(device)]
            self._own_biases.clear()
        for layer in self.layers:
            layer.keep_rows(places, self.fold, kept)

    def prompts_only(self) -> GroupCache:
        """Return a cache with the same prompts and no rows, for ``resume_rows``. No row may have been dropped yet.

        Both share the tensors of the prompts.
        """
        other = copy(self)
        other.layers = [copy(layer) for layer in self.layers]
        for layer in other.layers:
            layer.keys = layer.values = None
        other._biases = {}
        return other

    def own_tokens(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values of the own tokens of some rows, by layer: copies [N, kv, t, d] each.

        ``rows``: their numbers, int64 [N], on the CPU.
        """
        places = self._unfold.view(len(self._prompt_of_row), -1)[rows]  # [N, kv]
        shape = tuple(places.shape)
        places = places.flatten().to(self.prompt_lengths.device)
        found = [layer.own_tokens(places) for layer in self.layers]
        return [(keys.unflatten(0, shape), values.unflatten(0, shape)) for keys, values in found]

    def resume_rows(
        self, prompt_of_row: Tensor, own: Sequence[tuple[Tensor, Tensor]], num_own: Tensor, room: int
    ) -> None:
        """Begin decoding with rows that have own tokens already, in a cache of prompts only.

        ``prompt_of_row``: int64 [R], ascending, on the CPU. ``own``: keys and values of each layer, [R, kv, N, d] each,
        of which the first ``num_own`` of each row, int64 [R], are its own, and the others are hidden. ``room``: tokens
        that will be added.
        """
        device = self.prompt_lengths.device
        prompts, renumbered = torch.unique_consecutive(prompt_of_row, return_inverse=True)
        kept = prompts.to(device)
        self.prompt_lengths = self.prompt_lengths[kept]
        self._index_rows(renumbered)
        for layer, (keys, values) in zip(self.layers, own, strict=True):
            layer.prompt_keys, layer.prompt_values = layer.prompt_keys[kept], layer.prompt_values[kept]
            layer.resume_rows(self.fold, keys, values, room)
        self.own_seen = torch.arange(own[0][0].shape[2], device=device) < num_own.to(device)[:, None]
        self.decoding = True

    def extend(self, seen: Tensor) -> None:
        """Prepare a step that adds M tokens to each row, which attend to each other causally.

        ``seen``: bool [R, M], False for padding.
        """
        assert self.own_seen is not None, "rows that were not resumed have no padding"
        self.own_seen = torch.cat([self.own_seen, seen], 1)
        self._own_biases.clear()

    def own_bias(self, own: int, count: int, dtype: torch.dtype) -> Tensor | None:
        """Return the bias that hides own tokens from the newest ``count`` tokens of their row; None if none is hidden.

        Shape [P * kv * W, count, own] of ``dtype``. ``own``: own tokens of a row, the newest included.
        """
        if self.own_seen is None:
            return None
        # Computed once for all layers.
        if own not in self._own_biases:
            seen = F.pad(self.own_seen, (0, own - self.own_seen.shape[1]), value=True)  # [R, own]
            steps = torch.arange(own, device=seen.device)
            causal = steps <= steps[own - count :, None]  # [count, own]
            rows = self.fold // self.layers[0].prompt_keys.shape[1]  # [P * kv * W]
            bias = lowest_where_hidden(seen[:, None] & causal, dtype).index_select(0, rows)
            self._own_biases = {own: bias}
        return self._own_biases[own]

    def make_static(self, newest: Tensor, span: int) -> None:
        """Decode in steps of constant shape. ``newest``: number of the own token that a step adds to each row.

        It is int64 [R], equal for the rows of a prompt; a step reads the numbers that it holds at the time.
        Attention reads the first ``span`` own tokens of each row, and ``static_bias`` hides those after ``newest``.
        """
        self.span = span
        self.prompt_lengths = self.prompt_lengths.clone()  # `replace_prompts` writes into it
        for layer in self.layers:
            layer.make_static()
        self.follow(newest)

    def follow(self, newest: Tensor) -> None:
        """Read the numbers of the newest tokens from another tensor, int64 [R], after ``keep_rows``."""
        num_heads, device = self.layers[0].prompt_keys.shape[1], newest.device
        self.newest = newest
        self._row_of_place = (self._fold // num_heads).to(device)
        self._first_place = torch.arange(len(self._fold), device=device) * self.layers[0].get_max_length()
        # Rows are grouped by prompt.
        first_row = torch.searchsorted(self._prompt_of_row, torch.arange(len(self.prompt_lengths)))
        self._first_row = first_row.to(device)

    def replace_prompts(self, places: Tensor, other: GroupCache) -> bool:
        """Overwrite the prompts with the numbers ``places``, int64 [N], by the N prompts of another cache, in order.

        Their rows continue the new prompts. Return True if tensors had to grow, which are then other ones.
        """
        before = self.layers[0].prompt_keys.shape
        for layer, source in zip(self.layers, other.layers, strict=True):
            layer.replace_prompts(places, source)
        self.prompt_lengths.index_copy_(0, places, other.prompt_lengths)
        return self.layers[0].prompt_keys.shape != before

    @property
    def span(self) -> int:
        """Own tokens of a row that a step of constant shape reads."""
        return self.layers[0].span

    @span.setter
    def span(self, span: int) -> None:
        for layer in self.layers:
            layer.span = span

    def begin_token(self) -> None:
        """Forget the biases of the token before, and find where the keys of each row's new token are written."""
        assert self.newest is not None
        self._biases.clear()
        self._newest_of_prompt = self.newest.index_select(0, self._first_row)
        write_at = self.newest.index_select(0, self._row_of_place) + self._first_place  # [P * kv * W]
        for layer in self.layers:
            layer.write_at = write_at

    def static_bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return the bias of a step of constant shape, [P, 1, L + span] of ``dtype``, computed once per token.

        It hides padding of the prompts, own tokens that are not written yet, and what is outside of the window.
        """
        if window not in self._biases:
            lengths, newest = self.prompt_lengths[:, None], self._newest_of_prompt[:, None]  # [P, 1]
            in_prompt = torch.arange(self.layers[0].prompt_keys.shape[2], device=newest.device)  # [L]
            own_back = newest - torch.arange(self.span, device=newest.device)  # tokens from each key to the newest one
            seen = torch.cat([in_prompt < lengths, own_back >= 0], 1)  # [P, L + span]
            if window is not None:
                seen &= torch.cat([lengths + newest - in_prompt, own_back], 1) < window
            self._biases[window] = 0, lowest_where_hidden(seen, dtype)[:, None]
        return self._biases[window][1]

    def prompt_bias(self, window: int | None, own: int, dtype: torch.dtype) -> Tensor | None:
        """Return the bias that hides padding of the prompts from the rows: [P, 1, 1, L] of ``dtype``; None if none is.

        ``window``: of the layer (sliding window), in tokens. ``own``: own tokens of a row, the newest included.
        """
        if window is None:
            if self.equal_prompts:
                return None
            own = 0  # without a window, the bias is the same for every token
        # Computed once for all layers with the same window.
        if window not in self._biases or self._biases[window][0] != own:
            lengths = self.prompt_lengths[:, None]
            columns = torch.arange(self.layers[0].prompt_keys.shape[2], device=lengths.device)
            seen = columns < lengths  # [P, L]
            if window is not None:
                # The new token is number L_p + t - 1 of its sequence; the window counts from there.
                seen &= lengths + own - 1 - columns < window
            self._biases[window] = own, lowest_where_hidden(seen, dtype)[:, None, None]
        return self._biases[window][1]

    def _index_rows(self, prompt_of_row: Tensor) -> None:
        """Set ``fold`` and ``unfold`` for rows of these prompts, [R] in ascending order, on the CPU."""
        # Computed on the CPU: the shapes depend on the numbers, so the host would wait for a GPU.
        counts = torch.bincount(prompt_of_row, minlength=len(self.prompt_lengths))
        numbers = torch.arange(len(prompt_of_row))
        # Number of a row within its prompt: its own number minus the rows of all prompts before.
        place = numbers - (counts.cumsum(0) - counts)[prompt_of_row]
        rows = numbers.new_zeros(len(counts), 1, int(counts.max()))  # [P, 1, W]; spare places: row 0
        rows[prompt_of_row, 0, place] = numbers
        num_heads = self.layers[0].prompt_keys.shape[1]
        heads = torch.arange(num_heads)
        self._prompt_of_row = prompt_of_row
        self._fold = (rows * num_heads + heads[:, None]).flatten()  # [P, kv, W] -> [P * kv * W]
        # (prompt * kv + head) * W + place: [R, kv] -> [R * kv]
        self._unfold = ((prompt_of_row[:, None] * num_heads + heads) * rows.shape[-1] + place[:, None]).flatten()
        device = self.prompt_lengths.device
        self.fold, self.unfold = self._fold.to(device), self._unfold.to(device)
        self._biases.clear()
