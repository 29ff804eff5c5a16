"""From rewarded groups to the packed rows of one optimizer step, with the weight of each token in the loss.

A row holds groups one after the other, each prompt once and its completions after it (prefix sharing). Two groups with
completions of 2 and 3, and of 1 token; an entry per completion token below:

    row         [ p1 p1 p1 | c11 c11 | c12 c12 c12 | p2 p2 p2 p2 | c21 | ... ]     T tokens
    targets                  c11 c11   c12 c12 c12                 c21             N tokens
    advantages               A11 A11   A12 A12 A12                 A21             one value per completion
    weights                  w11 w11   w12 w12 w12                 w21             1 / denominator of the whole step

Demonstrations of a group, if there are any, come after its completions. They are targets of the row too, but have no
entry in the other tensors: ``Microbatch.sampled`` selects the entries of completion tokens.

With the loss "sequence_mean" and 3 completions in the step, w11 = 1/(3 x 2), w12 = 1/(3 x 3), w21 = 1/(3 x 1). No
token is padded: a completion sees its own prompt and itself only, which the row's ``layout`` says to the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from virft.config.schema import LossKind
from virft.generation.generator import EncodedPrompt
from virft.models.attention.layout import Insertion, PackedRow, pack_row
from virft.training.grpo.advantages import group_advantages
from virft.types import Completion, RolloutGroup

_WeightOf = Callable[[Completion], float]
"""The weight in the loss of each token of a completion."""


class WeightedDemonstration(NamedTuple):
    """A demonstration that is in the loss, with the weight of each token's log-prob (``demonstration_loss``)."""

    token_ids: Sequence[int]
    weights: Sequence[float]
    is_target: bool
    """False for a near-right answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationTokens:
    """The M demonstration tokens of a microbatch."""

    index: Tensor
    """Their entries among the N targets of the row: int64 tensor of shape (M,)."""
    weights: Tensor
    """Float tensor of shape (M,)."""
    in_cross_entropy: Tensor
    """Bool tensor of shape (M,): True for the tokens of targets that are in the loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """One forward and backward pass: a packed row of T tokens, N of them completion tokens, demonstrations not counted.

    The denominator of the loss is that of the whole step, so the loss of a step is the plain sum over its microbatches
    and gradient accumulation needs no scaling.
    """

    row: PackedRow
    """The tokens, and the places that predict each completion token."""
    prompts: tuple[int, ...]
    """Index, in the step, of each group of the row, in order."""
    images: tuple[tuple[int, int | None], ...]
    """Sources of the images of the row, in order: a group, and None for its prompt or the number of a completion with a
    tool turn."""
    advantages: Tensor
    """Float tensor of shape (N,)."""
    weights: Tensor
    """Float tensor of shape (N,)."""
    sampler_logprobs: Tensor
    """Float tensor of shape (N,): log-probs in nats under the engine that sampled the completions."""
    sampled_index: Tensor | None = None
    """Entries of completion tokens among the targets of the row: int64 tensor of shape (N,). None: all of them."""
    demonstrations: DemonstrationTokens | None = None
    """The other targets; None if there are no others."""

    def sampled(self, values: Tensor) -> Tensor:
        """Values of the completion tokens, of shape (N,), from those of all targets of the row."""
        if self.sampled_index is None:
            return values
        return values.index_select(0, self.sampled_index.to(values.device))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some members of one group: the whole group, unless it exceeds the limit of a row."""

    group: int
    members: tuple[int, ...]
    """Numbers of completions, from 0, and of demonstrations, from the number of completions on."""
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
    advantages: Sequence[Sequence[float]] | None = None,
    demonstrations: Sequence[Sequence[WeightedDemonstration]] | None = None,
    insertions: Sequence[Sequence[Insertion | None]] | None = None,
) -> list[Microbatch]:
    """The microbatches of a step, of at most ``microbatch_tokens`` tokens each; a single completion may exceed it.

    ``drop_equal`` skips completions of groups without an advantage; the denominator counts them all the same.
    ``counted``: all groups of the step, if ``groups`` are those of one rank. ``mask_truncated`` gives the tokens of a
    truncated completion weight 0; other weights do not change. ``advantages``: of the completions of each group; None:
    ``group_advantages``. ``demonstrations``: those of each group. ``insertions``: tool turns of the completions of each
    group; None: there are none.
    """
    weigh = token_weights(groups if counted is None else counted, loss, max_completion_tokens)

    def weight_of(completion: Completion) -> float:
        return 0.0 if mask_truncated and completion.truncated else weigh(len(completion.token_ids))

    if advantages is None:
        advantages = [group_advantages(group.rewards, scale_by_std=scale_by_std).tolist() for group in groups]
    if insertions is None:
        insertions = [[None] * len(group.completions) for group in groups]
    source = _Source(groups, encoded, advantages, demonstrations or [()] * len(groups), weight_of, insertions)
    # indices into ``groups``, so that a microbatch can look up the prompts and features of its groups
    pieces = [
        piece
        for i in range(len(groups))
        for piece in _split(i, source, microbatch_tokens, has_completions=not drop_equal or any(advantages[i]))
    ]
    return [_microbatch(batch, source) for batch in _fill(pieces, microbatch_tokens)]


def zero_weight_microbatch(groups: Sequence[RolloutGroup], encoded: Sequence[EncodedPrompt]) -> Microbatch:
    """A short microbatch of weight 0, so that every rank runs the same number of sharded forward passes.

    FSDP2 and ZeRO-3 gather weights in each pass; a rank with fewer passes than another would leave it waiting forever.
    """
    # the shortest prompt with one completion: the cheapest row that this rank has the features for. Without its tool
    # turn: only the number of passes matters.
    shortest = min(range(len(groups)), key=lambda i: len(groups[i].prompt.token_ids))
    piece = _Piece(shortest, (0,), 0)
    advantages = [[0.0] * len(group.completions) for group in groups]
    return _microbatch(
        [piece],
        _Source(groups, encoded, advantages, [()] * len(groups), lambda completion: 0.0, [[None]] * len(groups)),
    )


def token_weights(groups: Sequence[RolloutGroup], loss: LossKind, max_completion_tokens: int) -> Callable[[int], float]:
    """From the length of a completion in tokens to the weight of each of its tokens.

    The weights of a step's completions sum to 1 ("constant_length": at most to 1).
    """
    # Denominators of the whole step, over all ranks and microbatches: a mean of means would weigh short rows more.
    num_completions = sum(len(group.completions) for group in groups)
    num_tokens = sum(len(c.token_ids) for group in groups for c in group.completions)
    match loss:
        case "sequence_mean":
            return lambda length: 1.0 / (num_completions * length)
        case "token_mean":
            return lambda length: 1.0 / num_tokens
        case "constant_length":
            return lambda length: 1.0 / (num_completions * max_completion_tokens)


class _Source(NamedTuple):
    """Input of all microbatches of a step; each sequence has an entry for each group."""

    groups: Sequence[RolloutGroup]
    encoded: Sequence[EncodedPrompt]
    advantages: Sequence[Sequence[float]]
    demonstrations: Sequence[Sequence[WeightedDemonstration]]
    weight_of: _WeightOf
    insertions: Sequence[Sequence[Insertion | None]]

    def insertion(self, group: int, member: int) -> Insertion | None:
        """Tool turn of a completion; None if it has none, and for a demonstration."""
        return self.insertions[group][member] if member < len(self.insertions[group]) else None

    def num_tokens(self, group: int, member: int) -> int:
        """Tokens of a completion or a demonstration in the row, its tool turn included."""
        inserted = self.insertion(group, member)
        return len(self.token_ids(group, member)) + (0 if inserted is None else len(inserted.token_ids))

    def token_ids(self, group: int, member: int) -> Sequence[int]:
        """Tokens of a completion, or of a demonstration."""
        completions = self.groups[group].completions
        if member < len(completions):
            return completions[member].token_ids
        return self.demonstrations[group][member - len(completions)].token_ids


def _split(number: int, source: _Source, limit: int, *, has_completions: bool) -> Iterator[_Piece]:
    """A group in as few pieces as fit into rows of ``limit`` tokens; the prompt is repeated in each piece.

    Not ``has_completions``: only its demonstrations, if there are any.
    """
    group = source.groups[number]
    num_completions = len(group.completions)
    first = 0 if has_completions else num_completions
    prompt = len(group.prompt.token_ids)
    chosen: list[int] = []
    total = prompt
    for member in range(first, num_completions + len(source.demonstrations[number])):
        length = source.num_tokens(number, member)
        # "chosen": a completion that exceeds the limit by itself gets a row of its own
        if chosen and total + length > limit:
            yield _Piece(number, tuple(chosen), total)
            chosen, total = [], prompt
        chosen.append(member)
        total += length
    if chosen:
        yield _Piece(number, tuple(chosen), total)


def _fill(pieces: Sequence[_Piece], limit: int) -> Iterator[list[_Piece]]:
    """Consecutive pieces, as many in a row as fit."""
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


def _microbatch(pieces: Sequence[_Piece], source: _Source) -> Microbatch:
    groups = source.groups
    advantages: list[float] = []
    weights: list[float] = []
    sampler: list[float] = []
    demonstrations: list[WeightedDemonstration] = []
    # True for each target of the row that is a demonstration's
    is_demonstration: list[bool] = []
    # the order of ``row.targets``: pieces, their members, their tokens
    for piece in pieces:
        completions = groups[piece.group].completions
        for member in piece.members:
            count = len(source.token_ids(piece.group, member))
            is_demonstration += [member >= len(completions)] * count
            if member >= len(completions):
                demonstrations.append(source.demonstrations[piece.group][member - len(completions)])
                continue
            completion = completions[member]
            # of the whole group, although only a part of its completions may be in this row
            advantages += [float(source.advantages[piece.group][member])] * count
            weights += [source.weight_of(completion)] * count
            sampler += completion.sampler_logprobs
    mask = torch.tensor(is_demonstration)
    return Microbatch(
        row=pack_row(
            [groups[piece.group].prompt.token_ids for piece in pieces],
            [source.encoded[piece.group].positions for piece in pieces],
            [[source.token_ids(piece.group, member) for member in piece.members] for piece in pieces],
            [[source.insertion(piece.group, member) for member in piece.members] for piece in pieces],
        ),
        prompts=tuple(piece.group for piece in pieces),
        images=tuple(one for piece in pieces for one in _images(piece, source)),
        advantages=torch.tensor(advantages),
        weights=torch.tensor(weights),
        sampler_logprobs=torch.tensor(sampler),
        sampled_index=(~mask).nonzero()[:, 0] if demonstrations else None,
        demonstrations=_tokens(demonstrations, mask) if demonstrations else None,
    )


def _images(piece: _Piece, source: _Source) -> Iterator[tuple[int, int | None]]:
    """Sources of the images of a piece, see ``Microbatch.images``."""
    yield piece.group, None
    yield from ((piece.group, one) for one in piece.members if source.insertion(piece.group, one) is not None)


def _tokens(demonstrations: Sequence[WeightedDemonstration], mask: Tensor) -> DemonstrationTokens:
    """The tokens of demonstrations, at the entries of a row's targets where ``mask`` is True."""
    weights = torch.tensor([weight for one in demonstrations for weight in one.weights])
    is_target = torch.tensor([one.is_target for one in demonstrations for _ in one.weights])
    return DemonstrationTokens(index=mask.nonzero()[:, 0], weights=weights, in_cross_entropy=is_target & (weights != 0))
