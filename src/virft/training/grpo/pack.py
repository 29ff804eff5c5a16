"""From rewarded groups to the packed rows of one optimizer step, with the weight of each token in the loss.

A row holds groups one after the other, each prompt once and its completions after it (prefix sharing). Two groups with
completions of 2 and 3, and of 1 token; an entry per completion token below:

    row         [ p1 p1 p1 | c11 c11 | c12 c12 c12 | p2 p2 p2 p2 | c21 | ... ]     T tokens
    targets                  c11 c11   c12 c12 c12                 c21             N tokens
    advantages               A11 A11   A12 A12 A12                 A21             one value per completion
    weights                  w11 w11   w12 w12 w12                 w21             1 / denominator of the whole step

With the loss "sequence_mean" and 3 completions in the step, w11 = 1/(3 x 2), w12 = 1/(3 x 3), w21 = 1/(3 x 1). No
token is padded: a completion sees its own prompt and itself only, which the row's ``layout`` says to the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from virft.config.schema import LossKind
from virft.generation.generator import EncodedPrompt
from virft.models.attention.layout import PackedRow, pack_row
from virft.training.grpo.advantages import group_advantages, has_nonzero_std
from virft.types import Completion, RolloutGroup

_WeightOf = Callable[[Completion], float]
"""The weight in the loss of each token of a completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """One forward and backward pass: a packed row of T tokens, N of them completion tokens.

    The denominator of the loss is that of the whole step, so the loss of a step is the plain sum over its microbatches
    and gradient accumulation needs no scaling.
    """

    row: PackedRow
    """The tokens, and the places that predict each completion token."""
    prompts: tuple[int, ...]
    """Index, in the step, of each group of the row, in order."""
    advantages: Tensor
    """Float tensor of shape (N,)."""
    weights: Tensor
    """Float tensor of shape (N,)."""
    sampler_logprobs: Tensor
    """Float tensor of shape (N,): log-probs in nats under the engine that sampled the completions."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some completions of one group: the whole group, unless it exceeds the limit of a row."""

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
    """The microbatches of a step, of at most ``microbatch_tokens`` tokens each; a single completion may exceed it.

    ``drop_equal`` skips groups with zero reward variance; the denominator counts their completions all the same.
    ``counted``: all groups of the step, if ``groups`` are those of one rank. ``mask_truncated`` gives the tokens of a
    truncated completion weight 0; other weights do not change.
    """
    weigh = _token_weights(groups if counted is None else counted, loss, max_completion_tokens)

    def weight_of(completion: Completion) -> float:
        return 0.0 if mask_truncated and completion.truncated else weigh(completion)

    # indices into ``groups``, so that a microbatch can look up the prompts and features of its groups
    chosen = [i for i, group in enumerate(groups) if not drop_equal or has_nonzero_std(group.rewards)]
    pieces = [piece for i in chosen for piece in _split(i, groups[i], microbatch_tokens)]
    return [_microbatch(batch, groups, encoded, weight_of, scale_by_std) for batch in _fill(pieces, microbatch_tokens)]


def zero_weight_microbatch(groups: Sequence[RolloutGroup], encoded: Sequence[EncodedPrompt]) -> Microbatch:
    """A short microbatch of weight 0, so that every rank runs the same number of sharded forward passes.

    FSDP2 and ZeRO-3 gather weights in each pass; a rank with fewer passes than another would leave it waiting forever.
    """
    # the shortest prompt with one completion: the cheapest row that this rank has the features for
    shortest = min(range(len(groups)), key=lambda i: len(groups[i].prompt.token_ids))
    piece = _Piece(shortest, (0,), 0)
    return _microbatch([piece], groups, encoded, lambda completion: 0.0, scale_by_std=False)


def _token_weights(groups: Sequence[RolloutGroup], loss: LossKind, max_completion_tokens: int) -> _WeightOf:
    """Weight of a token by its completion; the weights of a step sum to 1 ("constant_length": at most to 1)."""
    # Denominators of the whole step, over all ranks and microbatches: a mean of means would weigh short rows more.
    num_completions = sum(len(group.completions) for group in groups)
    num_tokens = sum(len(c.token_ids) for group in groups for c in group.completions)
    match loss:
        case "sequence_mean":
            return lambda completion: 1.0 / (num_completions * len(completion.token_ids))
        case "token_mean":
            return lambda completion: 1.0 / num_tokens
        case "constant_length":
            return lambda completion: 1.0 / (num_completions * max_completion_tokens)


def _split(number: int, group: RolloutGroup, limit: int) -> Iterator[_Piece]:
    """A group in as few pieces as fit into rows of ``limit`` tokens; the prompt is repeated in each piece."""
    prompt = len(group.prompt.token_ids)
    chosen: list[int] = []
    total = prompt
    for g, completion in enumerate(group.completions):
        # "chosen": a completion that exceeds the limit by itself gets a row of its own
        if chosen and total + len(completion.token_ids) > limit:
            yield _Piece(number, tuple(chosen), total)
            chosen, total = [], prompt
        chosen.append(g)
        total += len(completion.token_ids)
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


def _microbatch(
    pieces: Sequence[_Piece],
    groups: Sequence[RolloutGroup],
    encoded: Sequence[EncodedPrompt],
    weight_of: _WeightOf,
    scale_by_std: bool,
) -> Microbatch:
    advantages: list[float] = []
    weights: list[float] = []
    sampler: list[float] = []
    # the order of ``row.targets``: pieces, their completions, their tokens
    for piece in pieces:
        group = groups[piece.group]
        # of the whole group, although only a part of its completions may be in this row
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
