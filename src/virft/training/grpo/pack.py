"""From rewarded groups to the rows of one update: which completions go together, and what each token weighs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from virft.generation.generator import EncodedPrompt
from virft.models.attention.layout import PackedRow, pack_row
from virft.training.grpo.advantages import group_advantages, has_spread
from virft.types import Completion, RolloutGroup

LossKind = Literal["sequence_mean", "token_mean", "constant_length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """One forward and backward: a packed row and, per completion token [N], what its loss needs.

    ``prompts``: numbers of the groups (in the step) whose prompts stand in the row, in order. ``weights`` hold the
    denominator of the whole step, so the loss of a step is the plain sum over its microbatches.
    """

    row: PackedRow
    prompts: tuple[int, ...]
    advantages: Tensor
    weights: Tensor
    sampler_logprobs: Tensor


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some completions of one group: a whole group, unless it is too large for one row."""

    group: int
    completions: tuple[int, ...]
    num_tokens: int


def pack_step(
    groups: Sequence[RolloutGroup],
    encoded: Sequence[EncodedPrompt],
    *,
    loss: LossKind,
    max_completion_tokens: int,
    scale_by_std: bool,
    drop_equal: bool,
    microbatch_tokens: int,
    counted: Sequence[RolloutGroup] | None = None,
    mask_truncated: bool = False,
) -> list[Microbatch]:
    """The microbatches of a step, at most ``microbatch_tokens`` row tokens each (a single completion may be more).

    ``drop_equal`` leaves out groups without spread; the denominator always counts every completion of the step.
    ``counted``: all groups of the step, where ``groups`` are one process's. ``mask_truncated``: a completion that was
    cut weighs nothing; the others weigh what they do beside one that was not.
    """
    weigh = _token_weights(groups if counted is None else counted, loss, max_completion_tokens)

    def weight_of(completion: Completion) -> float:
        return 0.0 if mask_truncated and completion.truncated else weigh(completion)

    kept = [i for i, group in enumerate(groups) if not drop_equal or has_spread(group.rewards)]
    pieces = [piece for i in kept for piece in _split(i, groups[i], microbatch_tokens)]
    return [_microbatch(batch, groups, encoded, weight_of, scale_by_std) for batch in _fill(pieces, microbatch_tokens)]


def idle_batch(groups: Sequence[RolloutGroup], encoded: Sequence[EncodedPrompt]) -> Microbatch:
    """A short row of weight 0, for a process that has to compute along with others and has nothing left to learn."""
    shortest = min(range(len(groups)), key=lambda i: len(groups[i].prompt.token_ids))
    piece = _Piece(shortest, (0,), 0)
    return _microbatch([piece], groups, encoded, lambda completion: 0.0, scale_by_std=False)


def _token_weights(groups: Sequence[RolloutGroup], loss: LossKind, max_completion_tokens: int) -> _WeightOf:
    """How much one token of a completion counts; the weights of a step add up to 1 (``constant_length``: at most)."""
    num_completions = sum(len(group.completions) for group in groups)
    num_tokens = sum(len(c.token_ids) for group in groups for c in group.completions)
    return _WeightOf(loss, num_completions, num_tokens, max_completion_tokens)


@dataclass(frozen=True, slots=True)
class _WeightOf:
    loss: LossKind
    num_completions: int
    num_tokens: int
    max_completion_tokens: int

    def __call__(self, completion: Completion) -> float:
        if self.loss == "sequence_mean":
            return 1.0 / (self.num_completions * len(completion.token_ids))
        if self.loss == "token_mean":
            return 1.0 / self.num_tokens
        return 1.0 / (self.num_completions * self.max_completion_tokens)


def _split(number: int, group: RolloutGroup, limit: int) -> Iterator[_Piece]:
    """The group in as few rows as fit; each row holds the prompt again."""
    prompt = len(group.prompt.token_ids)
    chosen: list[int] = []
    total = prompt
    for g, completion in enumerate(group.completions):
        if chosen and total + len(completion.token_ids) > limit:
            yield _Piece(number, tuple(chosen), total)
            chosen, total = [], prompt
        chosen.append(g)
        total += len(completion.token_ids)
    yield _Piece(number, tuple(chosen), total)


def _fill(pieces: Sequence[_Piece], limit: int) -> Iterator[list[_Piece]]:
    """Pieces in order, as many to a row as fit."""
    batch: list[_Piece] = []
    total = 0
    for piece in pieces:
        if batch and total + piece.num_tokens > limit:
            yield batch
            batch, total = [], 0
        batch.append(piece)
        total += piece.num_tokens
    if batch:
        yield batch


def _microbatch(
    pieces: Sequence[_Piece],
    groups: Sequence[RolloutGroup],
    encoded: Sequence[EncodedPrompt],
    weight_of: Callable[[Completion], float],
    scale_by_std: bool,
) -> Microbatch:
    advantages: list[float] = []
    weights: list[float] = []
    sampler: list[float] = []
    for piece in pieces:
        group = groups[piece.group]
        of_group = group_advantages(group.rewards, scale_by_std=scale_by_std)
        for g in piece.completions:
            completion = group.completions[g]
            count = len(completion.token_ids)
            advantages += [float(of_group[g])] * count
            weights += [weight_of(completion)] * count
            sampler += completion.sampler_logprobs
    return Microbatch(
        row=pack_row(
            [groups[piece.group].prompt.token_ids for piece in pieces],
            [encoded[piece.group].positions for piece in pieces],
            [[groups[piece.group].completions[g].token_ids for g in piece.completions] for piece in pieces],
        ),
        prompts=tuple(piece.group for piece in pieces),
        advantages=torch.tensor(advantages),
        weights=torch.tensor(weights),
        sampler_logprobs=torch.tensor(sampler),
    )
