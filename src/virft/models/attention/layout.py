"""Packed rows: several groups in one row of tokens, each prompt once and its completions after it (prefix sharing).

A row of two groups, the first with completions of 2 and 1 tokens, the second with completions of 1 and 3::

    row index      0   1   2   3    4    5    6   7   8    9    10   11
    token          p1  p1  p1  c11  c11  c12  p2  p2  c21  c22  c22  c22
    position id    0   1   2   3    4    3    0   1   2    2    3    4

A prompt is computed once, whatever the number of its completions. Position ids of a completion continue from its own
prompt, so rotary embeddings are those of the unpacked sequence [prompt | completion]. Which query (line) attends to
which key (column); ``c``: causal, to itself and to earlier tokens; ``#``: to all of them; ``.``: to none of them::

                 p1   c11  c12  p2   c21  c22
            p1   c    .    .    .    .    .
            c11  #    c    .    .    .    .
            c12  #    .    c    .    .    .
            p2   .    .    .    c    .    .
            c21  .    .    .    #    c    .
            c22  .    .    .    #    .    c

No mask of T x T scores is built for that. Attention copies the row into two padded tables instead and runs over each as
a batch (``-``: padding)::

    prompts [P, L]        completions [P, G, C]
    p1 p1 p1              p1:  c11 c11 -
    p2 p2 -                    c12 -   -
                          p2:  c21 -   -
                               c22 c22 c22

On a GPU in half precision, a kernel for sequences of different lengths takes the row as it is, in segments, with the
keys of each segment side by side::

    segment        p1        c11            c12        p2     c21        c22
    row            0 1 2     3 4            5          6 7    8          9 10 11
    key_place      0 1 2     0 1 2 3 4      0 1 2 5    6 7    6 7 8      6 7 9 10 11

A completion of two turns with a tool turn between them (``Insertion``) is one segment, too. Only its sampled tokens are
targets; t, the tool turn with its image, is not::

    token            p1  p1  c11  c11  t   t   t   c11  c11
    predicted by         .   1    2    .   .   .   6    7      (row index)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

AttentionMethod = Literal["tables", "varlen"]
"""Ways to compute the attention of a packed row on a GPU: padded tables with scores, or segments without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """The S segments of a packed row, each prompt and each completion in the order of the row, and their K keys."""

    query_starts: Tensor
    """Row index at which each segment begins, and T: int32 [S + 1]."""

    key_starts: Tensor
    """Index into ``key_place`` at which the keys of each segment begin, and K: int32 [S + 1]."""

    key_place: Tensor
    """Row index of each key: those of a prompt are its own tokens, those of a completion [prompt | own]. int64 [K]."""

    most_queries: int
    """Tokens of the longest segment."""

    most_keys: int
    """Keys of the segment with most keys."""

    def to(self, device: torch.device) -> Segments:
        """Return the segments with their tensors on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _SEGMENT_TENSORS})


_SEGMENT_TENSORS = ("query_starts", "key_starts", "key_place")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionLayout:
    """Attention pattern of a packed row of T tokens, for ``shared_prompt.shared_prompt_attention``.

    Letters: P prompts of at most L tokens, at most G completions for each, of at most C tokens.
    """

    table_shape: tuple[int, int, int, int]
    """(P, L, G, C)."""

    prompt_lengths: Tensor
    """Tokens of each prompt: int64 [P]."""

    row_place: Tensor
    """Row index of each entry of both tables, prompts first: int64 [P * L + P * G * C]. Padding has index 0."""

    table_place: Tensor
    """Entry of both tables, prompts first, that holds each token of the row: int64 [T]."""

    equal_prompts: bool
    """True if all prompts have L tokens, so that no completion has to mask padding of its prompt."""

    segments: Segments
    """The same pattern without tables."""

    image_blocks: Tensor | None = None
    """Image number of each prompt token, -1 for text: int64 [P, L]. Tokens of one image attend to each other in both
    directions. None: attention is causal everywhere."""

    method: AttentionMethod | None = None
    """Compute as on a GPU, whatever the device, for memory estimates and tests. None: as suits device and dtype."""

    def to_tables(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Copy values of a row [T, n] into the table of prompts [P * L, n] and of completions [P * G * C, n]."""
        # index_select along the first axis copies whole lines of memory. Other ways of indexing are several times
        # slower on a CPU, most of all backwards.
        prompts, length, group, size = self.table_shape
        table = row.index_select(0, self.row_place)  # [P * L + P * G * C, n]
        parts: tuple[Tensor, Tensor] = table.split([prompts * length, prompts * group * size])
        return parts

    def to_row(self, table: Tensor) -> Tensor:
        """Copy values of both tables [P * L + P * G * C, n] into a row [T, n]; the inverse of ``to_tables``."""
        return table.index_select(0, self.table_place)

    def with_image_blocks(self, is_image: Tensor) -> AttentionLayout:
        """Return the layout with bidirectional attention inside each image of a prompt.

        ``is_image``: bool [T], true for image tokens. Neighbouring image tokens belong to the same image.
        """
        prompts, length, _, _ = self.table_shape
        columns = torch.arange(length, device=is_image.device)
        inside = columns < self.prompt_lengths[:, None]  # [P, L]
        # Padding copies row index 0, which may be an image token: `inside` removes it.
        table = is_image.index_select(0, self.row_place[: prompts * length]).view(prompts, length) & inside
        # An image starts where the token before is not of an image; counting the starts numbers the images.
        first = table & ~F.pad(table[:, :-1], (1, 0))
        return replace(self, image_blocks=torch.where(table, first.cumsum(1) - 1, -1))

    def to(self, device: torch.device) -> AttentionLayout:
        """Return the layout with its tensors on another device."""
        names = ("prompt_lengths", "row_place", "table_place")
        blocks = None if self.image_blocks is None else self.image_blocks.to(device)
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, image_blocks=blocks, segments=self.segments.to(device), **moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """One row of T tokens, [prompt | c1 .. cG] of each group, with N completion tokens to predict."""

    token_ids: Tensor
    """Token ids: int64 [T]."""

    positions: Tensor
    """Rotary position ids along A axes: int64 [A, T]. Each completion continues from the end of its prompt."""

    logit_index: Tensor
    """Row index of the hidden state that predicts each completion token: int64 [N]."""

    targets: Tensor
    """Completion tokens, ordered by group, completion and token: int64 [N]."""

    layout: AttentionLayout
    """Attention pattern of the row."""

    def to(self, device: torch.device) -> PackedRow:
        """Return the row with its tensors on another device."""
        return PackedRow(
            token_ids=self.token_ids.to(device),
            positions=self.positions.to(device),
            logit_index=self.logit_index.to(device),
            targets=self.targets.to(device),
            layout=self.layout.to(device),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Insertion:
    """Tokens inside a completion that are not predicted: a tool turn, which may hold images."""

    after: int
    """Number of completion tokens before it."""

    token_ids: Sequence[int]
    """Its token ids, M of them."""

    positions: Tensor
    """Rotary position ids of the completion tokens before it and of its own: int64 [A, after + M]. Those of the
    completion tokens behind it continue from the largest of them."""


def position_ids(positions: Tensor) -> Tensor:
    """Return positions [A, batch, tokens] in the form that transformers expects.

    Three axes (time, height, width of Qwen-VL) stay [3, batch, tokens], one axis becomes [batch, tokens].
    """
    return positions if len(positions) > 1 else positions[0]


def pack_row(
    prompts: Sequence[Sequence[int]],
    prompt_positions: Sequence[Tensor],
    completions: Sequence[Sequence[Sequence[int]]],
    insertions: Sequence[Sequence[Insertion | None]] | None = None,
) -> PackedRow:
    """Pack groups into one row.

    ``prompts[p]``: token ids, L_p of them. ``prompt_positions[p]``: their position ids, int64 [A, L_p].
    ``completions[p]``: token ids of each completion of the prompt; the list may be empty.

    The last prompt token predicts the first token of every completion. Position ids of a completion continue from the
    largest position id of its prompt. An empty completion takes no place and predicts nothing.

    ``insertions``: of each completion, None for one without; None: there are none. Tokens of an insertion are in the
    row and are attended to, but they are no targets.
    """
    num_prompts = len(prompts)
    longest_prompt = max(len(prompt) for prompt in prompts)
    group = max((len(group) for group in completions), default=0)
    branches = [
        [_branch(one, None if insertions is None else insertions[p][g]) for g, one in enumerate(completions[p])]
        for p in range(num_prompts)
    ]
    longest = max((len(one.token_ids) for of_prompt in branches for one in of_prompt), default=0)
    # NumPy, not PyTorch: many small slices are written below, which costs tensors several times as much.
    prompt_index = np.zeros((num_prompts, longest_prompt), np.int64)
    completion_index = np.zeros((num_prompts, group, longest), np.int64)
    ids: list[int] = []
    slots: list[np.ndarray] = []
    positions: list[Tensor] = []
    logit_index: list[np.ndarray] = []
    targets: list[int] = []
    key_places: list[np.ndarray] = []  # of each segment
    ends: list[int] = [0]
    first_completion_slot = num_prompts * longest_prompt  # the table of completions follows that of prompts
    for p, prompt in enumerate(prompts):
        start, length = len(ids), len(prompt)
        own_places = np.arange(start, start + length)
        prompt_index[p, :length] = own_places
        key_places.append(own_places)
        ends.append(start + length)
        slots.append(p * longest_prompt + np.arange(length))
        ids.extend(prompt)
        positions.append(prompt_positions[p])
        # The largest on any axis: behind an image, Qwen's time, height and width positions differ.
        next_position = int(prompt_positions[p].max()) + 1
        for g, branch in enumerate(branches[p]):
            at, count = len(ids), len(branch.token_ids)
            if not count:
                continue
            places = np.arange(at, at + count)
            completion_index[p, g, :count] = places
            key_places.append(np.concatenate([own_places, places]))
            ends.append(at + count)
            slots.append(first_completion_slot + (p * group + g) * longest + np.arange(count))
            positions.append(branch.positions(next_position, len(prompt_positions[p])))
            # Shifted by one: token 0 is predicted by the end of the prompt, token i by token i - 1.
            predicting = np.concatenate([[start + length - 1], np.arange(at, at + count - 1)])
            logit_index.append(predicting if branch.inserted is None else np.delete(predicting, branch.inserted_places))
            ids.extend(branch.token_ids)
            targets.extend(completions[p][g])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return PackedRow(
        token_ids=torch.tensor(ids),
        positions=torch.cat(positions, dim=1),
        logit_index=torch.from_numpy(np.concatenate(logit_index) if logit_index else np.zeros(0, np.int64)),
        targets=torch.tensor(targets, dtype=torch.long),
        layout=AttentionLayout(
            table_shape=(num_prompts, longest_prompt, group, longest),
            prompt_lengths=lengths,
            row_place=torch.from_numpy(np.concatenate([prompt_index.ravel(), completion_index.ravel()])),
            table_place=torch.from_numpy(np.concatenate(slots)),
            equal_prompts=bool((lengths == longest_prompt).all()),
            segments=_segments(ends, key_places),
        ),
    )


class _Branch(NamedTuple):
    """Tokens of a completion, with those that are inserted into it."""

    token_ids: Sequence[int]
    inserted: Insertion | None

    @property
    def inserted_places(self) -> slice:
        """Places of the inserted tokens among all."""
        assert self.inserted is not None
        return slice(self.inserted.after, self.inserted.after + len(self.inserted.token_ids))

    def positions(self, first: int, axes: int) -> Tensor:
        """Position ids, int64 [A, tokens], behind a prompt that ends before ``first``."""
        if self.inserted is None:
            return (first + torch.arange(len(self.token_ids))).expand(axes, -1)
        known = self.inserted.positions
        rest = int(known.max()) + 1 + torch.arange(len(self.token_ids) - known.shape[1])
        return torch.cat([known, rest.expand(axes, -1)], 1)


def _branch(tokens: Sequence[int], inserted: Insertion | None) -> _Branch:
    if inserted is None:
        return _Branch(tokens, None)
    return _Branch([*tokens[: inserted.after], *inserted.token_ids, *tokens[inserted.after :]], inserted)


def _segments(ends: list[int], key_places: list[np.ndarray]) -> Segments:
    """Segments that end at ``ends[1:]`` in the row, with the row indices of the keys of each."""
    num_keys = [len(places) for places in key_places]
    return Segments(
        query_starts=torch.tensor(ends, dtype=torch.int32),
        key_starts=torch.from_numpy(np.cumsum([0, *num_keys], dtype=np.int32)),
        key_place=torch.from_numpy(np.concatenate(key_places)),
        most_queries=int(np.diff(ends).max()),
        most_keys=max(num_keys),
    )
