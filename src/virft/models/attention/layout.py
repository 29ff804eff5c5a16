"""Packed rows: several groups in one row of tokens, each prompt once and its completions after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionLayout:
    """Attention pattern of a packed row of T tokens, for ``shared_prompt.shared_prompt_attention``.

    Attention works on two tables: P prompts of at most L tokens, and for each at most G completions of at most C.
    ``table_shape`` is (P, L, G, C). ``row_place`` [P * L + P * G * C] is the place in the row of every entry of both
    tables (padding: 0), ``table_place`` [T] the entry of every row token. ``image_blocks`` [P, L], where images are
    seen both ways: the number of the image that a prompt's token is of, -1 for text; None: all is seen causally.
    ``in_tables``: the scores of completions are tables on every device, as they are on a GPU; for counting.
    """

    table_shape: tuple[int, int, int, int]
    prompt_lengths: Tensor
    row_place: Tensor
    table_place: Tensor
    equal_prompts: bool
    image_blocks: Tensor | None = None
    in_tables: bool = False

    def to_tables(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Of values [T, n]: those of the prompts [P * L, n] and of the completions [P * G * C, n]."""
        # rows of memory by index_select: other ways of indexing are several times slower on a CPU, most backwards
        prompts, length, group, size = self.table_shape
        table = row.index_select(0, self.row_place)
        parts: tuple[Tensor, Tensor] = table.split([prompts * length, prompts * group * size])
        return parts

    def to_row(self, table: Tensor) -> Tensor:
        """The way back: [P * L + P * G * C, n] to [T, n]."""
        return table.index_select(0, self.table_place)

    def with_image_blocks(self, is_image: Tensor) -> AttentionLayout:
        """The same layout with neighbouring image tokens (``is_image`` [T]) of a prompt seen both ways."""
        prompts, length, _, _ = self.table_shape
        columns = torch.arange(length, device=is_image.device)
        inside = columns < self.prompt_lengths[:, None]
        table = is_image.index_select(0, self.row_place[: prompts * length]).view(prompts, length) & inside
        first = table & ~F.pad(table[:, :-1], (1, 0))
        return replace(self, image_blocks=torch.where(table, first.cumsum(1) - 1, -1))

    def to(self, device: torch.device) -> AttentionLayout:
        """The same layout on another device."""
        names = ("prompt_lengths", "row_place", "table_place")
        blocks = None if self.image_blocks is None else self.image_blocks.to(device)
        return replace(self, image_blocks=blocks, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """One row of T tokens: [prompt | c1 .. cG] of each group, and where its log-probs are read.

    ``token_ids`` [T]; ``positions`` [A, T] along A axes (see ``position_ids``), restarting after the prompt for every
    completion; ``logit_index`` [N]: the place whose hidden state predicts each completion token; ``targets`` [N]: those
    tokens, in the order of the groups, their completions, their tokens.
    """

    token_ids: Tensor
    positions: Tensor
    logit_index: Tensor
    targets: Tensor
    layout: AttentionLayout

    def to(self, device: torch.device) -> PackedRow:
        """The same row on another device."""
        return PackedRow(
            token_ids=self.token_ids.to(device),
            positions=self.positions.to(device),
            logit_index=self.logit_index.to(device),
            targets=self.targets.to(device),
            layout=self.layout.to(device),
        )


def position_ids(positions: Tensor) -> Tensor:
    """Positions [A, batch, tokens] as transformers wants them: as they are for three axes, [batch, tokens] for one."""
    return positions if len(positions) > 1 else positions[0]


def pack_row(
    prompts: Sequence[Sequence[int]],
    prompt_positions: Sequence[Tensor],
    completions: Sequence[Sequence[Sequence[int]]],
) -> PackedRow:
    """A row of groups: ``prompts[p]`` with positions [A, L_p] and its ``completions[p]`` (token ids; maybe none).

    The last prompt token predicts the first token of every completion; positions of a completion go on from the
    largest position of its prompt. An empty completion takes no place and predicts nothing.
    """
    num_prompts = len(prompts)
    longest_prompt = max(len(prompt) for prompt in prompts)
    group = max((len(group) for group in completions), default=0)
    longest = max((len(one) for group in completions for one in group), default=0)
    prompt_index = np.zeros((num_prompts, longest_prompt), np.int64)
    completion_index = np.zeros((num_prompts, group, longest), np.int64)
    ids: list[int] = []
    slots: list[np.ndarray] = []
    positions: list[Tensor] = []
    logit_index: list[np.ndarray] = []
    targets: list[int] = []
    first_completion_slot = num_prompts * longest_prompt
    for p, prompt in enumerate(prompts):
        start, length = len(ids), len(prompt)
        prompt_index[p, :length] = np.arange(start, start + length)
        slots.append(p * longest_prompt + np.arange(length))
        ids.extend(prompt)
        positions.append(prompt_positions[p])
        next_position = int(prompt_positions[p].max()) + 1
        for g, tokens in enumerate(completions[p]):
            at, count = len(ids), len(tokens)
            if not count:
                continue
            completion_index[p, g, :count] = np.arange(at, at + count)
            slots.append(first_completion_slot + (p * group + g) * longest + np.arange(count))
            positions.append((next_position + torch.arange(count)).expand(len(prompt_positions[p]), -1))
            logit_index.append(np.concatenate([[start + length - 1], np.arange(at, at + count - 1)]))
            ids.extend(tokens)
            targets.extend(tokens)
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
        ),
    )
