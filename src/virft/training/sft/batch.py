"""From samples and their target texts to packed rows: several samples in a row, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from virft.models.attention.layout import Insertion, PackedRow, pack_row
from virft.models.renderer import RenderedPrompt, RenderedTurn


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedRow:
    """One forward and backward pass."""

    row: PackedRow
    """The tokens [p1 | t1 | p2 | t2 | ..] of prompts and targets, and the places that predict each target token."""
    members: tuple[int, ...]
    """Index, in the batch, of each sample of the row, in order."""


class ZoomCall(NamedTuple):
    """First turn of a target with a zoom call, and the tool turn that answers it."""

    token_ids: tuple[int, ...]
    """Token ids of the call, its end token included."""
    turn: RenderedTurn


def pack_targets(
    prompts: Sequence[RenderedPrompt],
    targets: Sequence[Sequence[int]],
    *,
    microbatch_tokens: int,
    insertions: Sequence[Insertion | None] | None = None,
) -> list[SupervisedRow]:
    """Rows of at most ``microbatch_tokens`` tokens; a single sample may exceed it.

    ``targets``: token ids of each ground-truth completion, its end tokens included. ``insertions``: tool turns of the
    targets; None: there are none. Samples do not attend to each other.
    """
    turns = insertions or [None] * len(prompts)
    lengths = [
        len(one.prompt.token_ids) + len(target) + (0 if turn is None else len(turn.token_ids))
        for one, target, turn in zip(prompts, targets, turns, strict=True)
    ]
    return [
        SupervisedRow(
            row=pack_row(
                [prompts[i].prompt.token_ids for i in members],
                [prompts[i].positions for i in members],
                # groups of one completion each
                [[targets[i]] for i in members],
                [[turns[i]] for i in members],
            ),
            members=members,
        )
        for members in _fill(lengths, microbatch_tokens)
    ]


def _fill(lengths: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Consecutive samples, as many in a row as fit."""
    members: list[int] = []
    total = 0
    for number, length in enumerate(lengths):
        if members and total + length > limit:
            yield tuple(members)
            members, total = [], 0
        members.append(number)
        total += length
    if members:
        yield tuple(members)
