"""Sampling with the policy's own weights and prefix sharing: completions share the KV cache of their prompt.

One prefill computes all prompts in a packed row. Then each decode step adds one token to every completion that has not
ended. See ``virft.models.attention.cache`` for the layout of the cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from virft.generation.generator import EncodedPrompt, GenerationParams, Sampling
from virft.generation.random_streams import StepKey
from virft.generation.sampling_weights import ready_for_sampling
from virft.generation.second_turn import EncodeTurns, SecondTurns, join_turns
from virft.generation.static_decoding import (
    CHECK_EVERY,
    Piece,
    Prefilled,
    PromptQueue,
    StaticDecoding,
    static_obstacle,
)
from virft.models.attention.cache import GroupCache
from virft.models.attention.layout import pack_row, position_ids
from virft.models.layer_shapes import kv_sources
from virft.models.policy import Policy, no_mask
from virft.models.stop_tokens import stop_token_ids
from virft.types import Completion, FinishReason

_COMPACT_BELOW = 0.85
"""Ended rows are dropped from the cache once the fraction of active rows is below this. Dropping copies the cache."""
_CHECK_EVERY = {"cpu": 1}
"""Tokens after which the host reads which rows have ended, by device. ``CHECK_EVERY`` on others, where it has to wait
for the device, which then runs out of work."""
_GRAPH_COMPACT_BELOW = 0.5
"""The same where steps are captured, which takes as long as some ten tokens."""
_CAPTURES = {"cuda"}
"""Kinds of devices that replay steps of ``StaticDecoding`` as CUDA graphs."""


class Column(NamedTuple):
    """One decode step: the next token of each active row, [R] each."""

    rows: tuple[int, ...]
    """Number of the completion in each row: prompt * group_size + number in the group."""
    tokens: Tensor
    """Sampled token, int64."""
    logprobs: Tensor
    """Its log-prob under the policy's rules, float32, in nats."""


class HFGenerator:
    """A ``Generator`` that runs the policy itself, in ``eval()`` and inference mode.

    On-policy by construction: sampler and policy are the same weights, rules and attention function, so their log-probs
    differ by rounding alone. With ``merge_adapters``, ``generate`` decodes with one copy of base and adapters, which is
    faster on a GPU and rounds the weights; its log-probs are then those of another engine. With ``cuda_graph``, a GPU
    replays each decode step of ``generate`` as one CUDA graph, where the model allows it.

    ``prompts_per_batch``: prompts that are sampled concurrently; None: all. The others wait, and one takes the place of
    each prompt whose completions have all ended (continuous batching). It bounds memory and does not change the
    completions, because each has a random stream of its own.

    ``encode_turns``: from tool turns to the features of their images; None: the policy's.
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: Any,
        *,
        merge_adapters: bool = False,
        cuda_graph: bool = False,
        prompts_per_batch: int | None = None,
        encode_turns: EncodeTurns | None = None,
    ) -> None:
        self._policy = policy
        self._decoder = TextDecoder(tokenizer)
        self._stop_ids = stop_token_ids(policy.model)
        self._merged = policy.adapted_layers() if merge_adapters else []
        self.cuda_graph = cuda_graph
        self.prompts_per_batch = prompts_per_batch
        self._obstacle = static_obstacle(policy)
        self._encode_turns = encode_turns

    @property
    def merges_adapters(self) -> bool:
        """True if ``generate`` decodes with one copy of base and adapters."""
        return bool(self._merged)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Iterable[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> list[list[Completion]]:
        """Sample ``group_size`` completions of each prompt, in the order of the prompts.

        Prompts are taken from the iterable when there is room for them.
        """
        # In train() with gradient checkpointing, layers would write no KV cache and decode without the prompt.
        was_training = self._policy.training
        self._policy.eval()
        queue = PromptQueue(prompts)
        try:
            with ready_for_sampling(self._policy.token_layers(), merged=self._merged):
                if queue.answers_calls:
                    return self._two_turns(queue, group_size, params, key)
                return self._one_turn(queue, group_size, params, key)
        finally:
            self._policy.train(was_training)

    def _one_turn(
        self, queue: PromptQueue, group_size: int, params: GenerationParams, key: StepKey
    ) -> list[list[Completion]]:
        pieces = list(self._pieces(queue, group_size, params, key))
        opened = queue.opened
        drawn = self._by_completion(pieces, len(opened) * group_size)
        completions = [self._decoder.completion(*one, opened=opened[i // group_size]) for i, one in enumerate(drawn)]
        return [completions[i * group_size : (i + 1) * group_size] for i in range(len(opened))]

    def _two_turns(
        self, queue: PromptQueue, group_size: int, params: GenerationParams, key: StepKey
    ) -> list[list[Completion]]:
        """Completions with answered zoom calls: ``prompts_per_batch`` prompts at a time, both turns of all of them.

        Continuous batching and CUDA graphs are not used. See ``virft.generation.second_turn``.
        """
        found: list[list[Completion]] = []
        limit = params.max_completion_tokens
        while queue:
            prompts = [one for _, one in queue.take(self.prompts_per_batch)]
            first = self._prefilled([*enumerate(prompts)], group_size, limit, key, room=limit)
            turns = SecondTurns(self._policy, prompts, group_size, first.cache, self._encode_turns)
            columns = self._decoded(first, len(prompts[0].positions), params, park=turns.park)
            del first
            drawn = self._by_completion(self._joined(columns), len(prompts) * group_size)
            completions = [
                self._decoder.completion(*one, opened=prompts[i // group_size].prompt.opened)
                for i, one in enumerate(drawn)
            ]
            if (second := turns.begin(completions, limit, key)) is not None:
                columns = self._decoded(second.rows, len(prompts[0].positions), params, num_left=second.num_left)
                answers = self._by_completion(self._joined(columns), len(completions), second.limits)
                for number, turn in second.turns.items():
                    answer = self._decoder.completion(*answers[number], opened=turn.opened)
                    completions[number] = join_turns(completions[number], turn.zoom, answer)
            found += [completions[i * group_size : (i + 1) * group_size] for i in range(len(prompts))]
        return found

    def begin(
        self,
        prompts: Iterable[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> Sampling:
        """Sample as ``generate`` does, before this returns: the weights are the policy's, which may change later."""
        found = self.generate(prompts, group_size, params, key)
        return lambda: found

    @torch.inference_mode()
    def stream(self, prompt: EncodedPrompt, params: GenerationParams, key: StepKey) -> Generator[str, None, Completion]:
        """Yield the text so far after every token; return the completion, the same as that of ``generate``.

        The policy must be in ``eval()``: other code may run between two tokens, so its mode is not changed here.
        """
        opened = prompt.prompt.opened
        tokens: list[int] = []
        logprobs: list[float] = []
        for column in self._columns([prompt], 1, params, key):
            tokens += column.tokens.tolist()
            logprobs += column.logprobs.tolist()
            # Decoded from the start each time: the last token may complete a character of the one before.
            yield opened + self._decoder.text([token for token in tokens if token not in self._stop_ids])
            if tokens[-1] in self._stop_ids:
                break
        return self._decoder.completion(tokens, logprobs, tokens[-1] in self._stop_ids, opened=opened)

    def _pieces(self, queue: PromptQueue, group_size: int, params: GenerationParams, key: StepKey) -> Iterator[Piece]:
        """The completions of all prompts of a queue, piece by piece."""
        taken = queue.take(self.prompts_per_batch)
        if not taken:
            return
        device = self._device
        captures = self.cuda_graph and device.type in _CAPTURES
        if captures and self._obstacle:
            warnings.warn(f"decoding without CUDA graphs: {self._obstacle}", stacklevel=1)  # shown once
            captures = False
        if not (captures or queue):
            yield from self._joined(self._columns([one for _, one in taken], group_size, params, key))
            return
        limit = params.max_completion_tokens
        first = self._prefilled(taken, group_size, limit, key, room=limit)
        decoding = StaticDecoding(
            self._policy,
            first,
            queue=queue,
            # Their tokens are written into the cache of the first prompts.
            prefill=lambda more: self._prefilled(more, group_size, limit, key, room=0),
            is_stop=self._is_stop(first.distribution),
            num_axes=len(taken[0][1].positions),
            draw=_most_likely if params.temperature == 0 else draw,
            captures=captures,
            check_every=_CHECK_EVERY.get(device.type, CHECK_EVERY),
            compact_below=_GRAPH_COMPACT_BELOW if captures else _COMPACT_BELOW,
        )
        del first, taken  # their log-probabilities [R, V] are not needed any more
        yield from decoding.pieces()

    @staticmethod
    def _joined(columns: Iterable[Column]) -> Iterator[Piece]:
        """Decode steps as pieces: all steps with the same rows are copied to the host together, [R, steps] each."""
        for rows, group in groupby(columns, key=lambda column: column.rows):
            found = list(group)
            tokens, logprobs = (torch.stack(x, 1) for x in zip(*(one[1:] for one in found), strict=True))
            yield Piece(rows, (len(found),) * len(rows), tokens, logprobs)

    def _columns(
        self, prompts: Sequence[EncodedPrompt], group_size: int, params: GenerationParams, key: StepKey
    ) -> Iterator[Column]:
        """Prefill, then one column per decode step until all completions have ended."""
        limit = params.max_completion_tokens
        # Not in a variable: its log-probabilities [R, V] are needed for the first token only.
        yield from self._decoded(
            self._prefilled([*enumerate(prompts)], group_size, limit, key, room=limit),
            len(prompts[0].positions),
            params,
        )

    def _decoded(
        self,
        first: Prefilled,
        axes: int,
        params: GenerationParams,
        *,
        num_left: Tensor | None = None,
        park: Callable[[tuple[int, ...], GroupCache, Tensor], None] | None = None,
    ) -> Iterator[Column]:
        """One column per decode step until all rows have ended. ``axes``: of the position ids.

        ``num_left``: tokens after which each row ends, int64 [R] on the device; None: the limit. ``park``: called with
        the numbers of all rows, the cache and the places of those that are about to be dropped, int64 [N] on the CPU.

        On a GPU, the host waits for the device every ``CHECK_EVERY`` tokens only; completions that have ended before
        are continued until then.
        """
        policy, limit = self._policy, params.max_completion_tokens
        rows, cache, distribution, start, uniforms = first
        del first
        device = distribution.device
        is_stop = self._is_stop(distribution)
        forbidden, mask = policy.rules.forbidden_on(device), no_mask(distribution)
        ended = torch.zeros(len(uniforms), dtype=torch.bool, device=device)
        check_every = _CHECK_EVERY.get(device.type, CHECK_EVERY)
        for step in range(limit):
            chosen = distribution.argmax(-1) if params.temperature == 0 else draw(distribution, uniforms[:, step])
            yield Column(rows, chosen, distribution.gather(-1, chosen[:, None])[:, 0])  # [R, V] -> [R]
            if step + 1 == limit:
                break
            ended |= is_stop.index_select(0, chosen)
            if num_left is not None:
                ended |= num_left <= step + 1
            if (step + 1) % check_every == 0:
                has_ended = ended.cpu()
                active = (~has_ended).nonzero()[:, 0]
                if not len(active):
                    break
                # Before, ended rows are decoded too and their tokens ignored, which is cheaper than copying.
                if len(active) < _COMPACT_BELOW * len(rows):
                    if park is not None:
                        park(rows, cache, has_ended.nonzero()[:, 0])
                    cache.keep_rows(active)
                    rows = tuple(rows[i] for i in active.tolist())
                    active = active.to(device)
                    chosen, ended, start, uniforms = (x[active] for x in (chosen, ended, start, uniforms))
                    num_left = None if num_left is None else num_left[active]
            hidden = policy.model.model(
                input_ids=chosen[:, None],  # [R, 1]
                # [R] -> [axes, R, 1]. Always passed: the length of this cache is not that of the sequence.
                position_ids=position_ids((start + step).expand(axes, -1)[..., None]),
                attention_mask=mask,
                past_key_values=cache,
                group_cache=cache,
                use_cache=True,
            ).last_hidden_state[:, 0]  # [R, hidden]
            distribution = policy.next_log_distribution(hidden, forbidden)
        if park is not None:
            park(rows, cache, torch.arange(len(rows)))

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._policy.model.get_input_embeddings().weight.device
        return device

    def _is_stop(self, distribution: Tensor) -> Tensor:
        """Bool [V] on the device of log-probabilities [R, V]: True for stop tokens."""
        # A table, not the ids: `torch.isin` sorts longer lists, and then the host waits.
        ids = torch.arange(distribution.shape[-1])
        return torch.isin(ids, torch.tensor(sorted(self._stop_ids))).to(distribution.device)

    def _by_completion(
        self, pieces: Iterable[Piece], count: int, limits: Mapping[int, int] | None = None
    ) -> list[tuple[list[int], list[float], bool]]:
        """Token ids, log-probs and "has stopped" of every completion, each up to and including its stop token.

        ``limits``: most tokens of each completion by its number, where they differ; others than these have no tokens.
        """
        tokens: list[list[int]] = [[] for _ in range(count)]
        logprobs: list[list[float]] = [[] for _ in range(count)]
        for piece in pieces:
            of_rows = zip(piece.numbers, piece.lengths, piece.tokens.tolist(), piece.logprobs.tolist(), strict=True)
            for number, length, chosen, values in of_rows:
                if tokens[number] and tokens[number][-1] in self._stop_ids:
                    continue
                end = next((i + 1 for i in range(length) if chosen[i] in self._stop_ids), length)
                tokens[number] += chosen[:end]
                logprobs[number] += values[:end]
        for number, limit in (limits or {}).items():
            del tokens[number][limit:], logprobs[number][limit:]
        return [
            (ids, values, bool(ids) and ids[-1] in self._stop_ids) for ids, values in zip(tokens, logprobs, strict=True)
        ]

    def _prefilled(
        self,
        numbered: Sequence[tuple[int, EncodedPrompt]],
        group_size: int,
        limit: int,
        key: StepKey,
        *,
        room: int,
    ) -> Prefilled:
        """Prompts with their numbers, prefilled; a KV cache with room for ``room`` tokens of every completion."""
        prompts = [one for _, one in numbered]
        cache, distribution = self.prefill(prompts, group_size, room)
        device = distribution.device
        # As in `pack_row`: [R].
        start = torch.tensor([int(one.positions.max()) + 1 for one in prompts], device=device)
        # All random numbers are drawn before: a completion's do not depend on when others end. [R, limit], float64.
        streams = np.stack([key.uniforms(one.stream_id, g, limit) for one in prompts for g in range(group_size)])
        numbers = tuple(number * group_size + g for number, _ in numbered for g in range(group_size))
        return Prefilled(
            numbers, cache, distribution, start.repeat_interleave(group_size), torch.from_numpy(streams).to(device)
        )

    def prefill(self, prompts: Sequence[EncodedPrompt], group_size: int, limit: int) -> tuple[GroupCache, Tensor]:
        """Run all prompts once, in one packed row.

        Returns the KV cache, with room for ``limit`` tokens of every completion, and the log-probabilities of their
        first token, float32 [R, V].
        """
        policy = self._policy
        device = self._device
        ids, positions = [one.prompt.token_ids for one in prompts], [one.positions for one in prompts]
        row = pack_row(ids, positions, [()] * len(prompts)).to(device)
        cache = GroupCache(row.layout, kv_sources(policy.config.get_text_config()), limit)
        features = [one.features for one in prompts]
        hidden = policy.hidden_states(row, features, past_key_values=cache, group_cache=cache)
        cache.start_rows(group_size)
        # Prompts follow each other in the row: the last token of each is at the sum of lengths, minus 1. [P, V]
        distribution = policy.next_log_distribution(hidden[row.layout.prompt_lengths.cumsum(0) - 1])
        return cache, distribution.repeat_interleave(group_size, 0)

    def update(self) -> None:
        """Do nothing: the sampler uses the policy's own weights."""

    def close(self) -> None:
        """Do nothing: the sampler has no memory or processes of its own."""


def _most_likely(log_distribution: Tensor, _: Tensor) -> Tensor:
    return log_distribution.argmax(-1)


def draw(log_distribution: Tensor, uniforms: Tensor) -> Tensor:
    """Sample one token per row by inverse transform sampling; return int64 [R].

    ``log_distribution``: log-probabilities [R, V]. ``uniforms``: numbers in [0, 1), [R]. A token of probability 0 is
    never returned.
    """
    # Summed in float64: in float32 the tail of a large vocabulary would be lost.
    cumulative = log_distribution.exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # The total is not exactly 1, and a level equal to it would be behind the last token.
    level = torch.minimum(uniforms.double()[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level, right=True)[:, 0]


class TextDecoder:
    """Decodes sampled tokens to text, with the end of each token in it. Special tokens are part of the text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def completion(
        self, token_ids: Sequence[int], logprobs: Sequence[float], stopped: bool, *, opened: str
    ) -> Completion:
        """Return sampled tokens as a completion.

        ``logprobs``: of each token, in nats. ``stopped``: the last token is a stop token, which has no text.
        ``opened``: the beginning of the completion that the prompt contains already; its text starts with it.
        """
        written, ends = self.decode(token_ids[:-1] if stopped else token_ids)
        text = opened + written
        return Completion(
            token_ids=tuple(token_ids),
            token_ends=tuple(len(opened) + end for end in ends) + ((len(text),) if stopped else ()),
            sampler_logprobs=tuple(logprobs),
            text=text,
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
        )

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """Return the text, and for each token i the number of characters of the first i + 1 tokens."""
        # Fast path: tokens are decoded one by one, each only once, and joined.
        pieces = [self._piece(token) for token in token_ids]
        if not any("\ufffd" in piece for piece in pieces):
            return "".join(pieces), list(accumulate(len(piece) for piece in pieces))
        # A character of several tokens: until it is complete, its bytes decode to a replacement character.
        text = self.text(token_ids)
        return text, [min(len(text), len(self.text(token_ids[: i + 1]))) for i in range(len(token_ids))]

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.text([token])
        return self._pieces[token]

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of some tokens."""
        # Special tokens included: box tokens of some families are special, and would be missing in completions.
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )
