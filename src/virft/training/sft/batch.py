"""From samples with their right answers to packed rows: several questions to a row, none padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virft.models.attention.layout import PackedRow, pack_row
from virft.models.renderer import RenderedPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedRow:
    """One forward and backward. ``members``: numbers of the samples (in the step) that stand in the row, in order."""

    row: PackedRow
    members: tuple[int, ...]


def pack_answers(
    prompts: Sequence[RenderedPrompt], answers: Sequence[Sequence[int]], *, microbatch_tokens: int
) -> list[SupervisedRow]:
    """Rows [prompt | answer] of one sample after the other, at most ``microbatch_tokens`` each (one alone may be more).

    ``answers``: token ids of each right answer with its end token. Samples do not see one another.
    """
    lengths = [len(one.prompt.token_ids) + len(answer) for one, answer in zip(prompts, answers, strict=True)]
    return [
        SupervisedRow(
            row=pack_row(
                [prompts[i].prompt.token_ids for i in members],
                [prompts[i].positions for i in members],
                [[answers[i]] for i in members],
            ),
            members=members,
        )
        for members in _fill(lengths, microbatch_tokens)
    ]


def _fill(lengths: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Samples in order, as many to a row as fit."""
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
