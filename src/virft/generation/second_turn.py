"""Second turns of completions with a zoom call: sampling continues from the KV cache of the first turn.

A completion of a prompt either answers or ends with a call, which a tool turn with a second image answers::

    prompt  c1 (call)  tool1  a1
            c2
            c3 (call)  tool3  a3

Neither prompt nor first turn is computed again. Their keys and values remain in the cache; one forward pass adds the
last token of each call, which sampling has not fed to the model yet, and its tool turn; then the answers are decoded as
completions are. Own tokens of two rows in the cache (``.``: padding, hidden)::

    c1 c1 c1 .  | .  t1 t1 t1 | a1 a1 a1
    c3 c3 c3 c3 | t3 t3 t3 t3 | a3 a3

Tool turns are padded on the left, so that the answers of all rows begin at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from virft.generation.generator import EncodedPrompt
from virft.generation.random_streams import StepKey
from virft.generation.static_decoding import Prefilled
from virft.models.attention.cache import GroupCache
from virft.models.attention.layout import position_ids
from virft.models.policy import Policy, no_mask
from virft.models.renderer import RenderedTurn
from virft.models.vision import ImageFeatures
from virft.types import Completion, FinishReason, Zoom

EncodeTurns = Callable[[Sequence[RenderedTurn]], Sequence[ImageFeatures]]
"""From tool turns to the features of their images."""


class SecondTurn(NamedTuple):
    """Second turns that are ready to be decoded."""

    rows: Prefilled
    """A row for each of them, its number that of the completion."""
    turns: Mapping[int, RenderedTurn]
    """Tool turns by the number of the completion."""
    limits: Mapping[int, int]
    """Tokens that are left of the limit, by the number of the completion."""
    num_left: Tensor
    """The same by row, int64 [R] on the device."""


class SecondTurns:
    """Stores keys and values of first turns, and begins the second turns of those that end with a call.

    ``cache``: after the prefill of ``prompts``, before any row is dropped.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[EncodedPrompt],
        group_size: int,
        cache: GroupCache,
        encode_turns: EncodeTurns | None = None,
    ) -> None:
        self._policy, self._prompts, self._group_size = policy, prompts, group_size
        self._encode_turns = encode_turns
        self._cache = cache.prompts_only()
        # number of a completion -> its keys and values in each layer, [kv, t, d] each
        self._parked: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def park(self, numbers: tuple[int, ...], cache: GroupCache, rows: Tensor) -> None:
        """Store the own tokens of some rows of a cache, int64 [N] on the CPU, whose completions have ``numbers``."""
        layers = cache.own_tokens(rows)
        for place, row in enumerate(rows.tolist()):
            self._parked[numbers[row]] = [(keys[place], values[place]) for keys, values in layers]

    def begin(self, completions: Sequence[Completion], limit: int, key: StepKey) -> SecondTurn | None:
        """Compute the tool turns of the completions that end with a valid call; None if there is no call.

        ``limit``: sampled tokens of both turns together. Completions that are truncated or have no tokens left have no
        second turn.
        """
        turns: dict[int, RenderedTurn] = {}
        for number, one in enumerate(completions):
            answer_call = self._prompts[number // self._group_size].answer_call
            if answer_call is None or one.finish_reason is not FinishReason.STOP or len(one.token_ids) >= limit:
                continue
            if (turn := answer_call(one.text, one.token_ids)) is not None:
                turns[number] = turn
        if not turns:
            return None
        numbers = tuple(turns)
        cache, device = self._resumed(numbers, turns, limit), self._cache.prompt_lengths.device
        distribution = self._computed(cache, [completions[number] for number in numbers], [*turns.values()])
        left = {number: limit - len(completions[number].token_ids) for number in numbers}
        start = torch.tensor([int(turn.positions.max()) + 1 for turn in turns.values()], device=device)
        streams = np.stack([self._uniforms(number, limit, key) for number in numbers])
        rows = Prefilled(numbers, cache, distribution, start, torch.from_numpy(streams).to(device))
        return SecondTurn(rows, turns, left, torch.tensor([*left.values()], device=device))

    def _uniforms(self, number: int, limit: int, key: StepKey) -> np.ndarray:
        """The random numbers of a second turn, [limit]: a stream of its own, so that no number is used twice."""
        prompt, member = divmod(number, self._group_size)
        return key.uniforms(f"{self._prompts[prompt].stream_id}/zoom", member, limit)

    def _resumed(self, numbers: Sequence[int], turns: Mapping[int, RenderedTurn], limit: int) -> GroupCache:
        """A cache with prompts and first turns of the completions with these numbers, without their last tokens."""
        # The last token of a first turn was sampled, but is not in the cache yet.
        num_own = torch.tensor([turn.zoom.num_tokens - 1 for turn in turns.values()])
        longest = int(num_own.max())
        own = []
        for layer in range(len(self._cache.layers)):
            pair = []
            for part in (0, 1):
                like = self._parked[numbers[0]][layer][part]
                table = like.new_zeros(len(numbers), like.shape[0], longest, like.shape[2])  # [R, kv, N, d]
                for row, number in enumerate(numbers):
                    count = int(num_own[row])
                    table[row, :, :count] = self._parked[number][layer][part][:, :count]
                pair.append(table)
            own.append((pair[0], pair[1]))
        self._parked.clear()
        room = 1 + max(len(turn.zoom.tool_ids) for turn in turns.values()) + limit
        prompts = torch.tensor([number // self._group_size for number in numbers])
        self._cache.resume_rows(prompts, own, num_own, room)
        return self._cache

    def _computed(self, cache: GroupCache, calls: Sequence[Completion], turns: Sequence[RenderedTurn]) -> Tensor:
        """Add last tokens of calls and tool turns to the cache; log-probabilities of the next token, float32 [R, V]."""
        policy, device = self._policy, cache.prompt_lengths.device
        if self._encode_turns is None:
            features: Sequence[ImageFeatures] = policy.encode_images([turn.vision.to(device) for turn in turns])
        else:
            features = self._encode_turns(turns)
        added = [(call.token_ids[-1], *turn.zoom.tool_ids) for call, turn in zip(calls, turns, strict=True)]
        count = max(map(len, added))
        axes = len(turns[0].positions)
        # padding is a token of a call: any token but an image placeholder
        ids = torch.full((len(added), count), added[0][0])
        positions = torch.zeros(axes, len(added), count, dtype=torch.long)
        seen = torch.zeros(len(added), count, dtype=torch.bool)
        for row, (tokens, turn) in enumerate(zip(added, turns, strict=True)):
            ids[row, count - len(tokens) :] = torch.tensor(tokens)
            positions[:, row, count - len(tokens) :] = turn.positions[:, -len(tokens) :]
            seen[row, count - len(tokens) :] = True
        cache.extend(seen.to(device))
        hidden = policy.model.model(
            input_ids=ids.to(device),
            position_ids=position_ids(positions.to(device)),
            attention_mask=no_mask(ids.to(device)),
            past_key_values=cache,
            group_cache=cache,
            use_cache=True,
            **policy.family.forward_features(features),
        ).last_hidden_state[:, -1]  # [R, hidden]
        return policy.next_log_distribution(hidden)


def join_turns(first: Completion, zoom: Zoom, answer: Completion) -> Completion:
    """Return the completion of two turns: sampled tokens of both, text and finish reason of the second."""
    return replace(
        answer,
        token_ids=first.token_ids + answer.token_ids,
        token_ends=(0,) * len(first.token_ids) + answer.token_ends,
        sampler_logprobs=first.sampler_logprobs + answer.sampler_logprobs,
        zoom=zoom,
    )
