"""Sampling with the policy's own weights and prefix sharing: completions share the KV cache of their prompt.

One prefill computes all prompts in a packed row. Then each decode step adds one token to every completion that has not
ended. See ``virft.models.attention.cache`` for the layout of the cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.random_streams import StepKey
from virft.generation.sampling_weights import ready_for_sampling
from virft.generation.static_decoding import CHECK_EVERY, Column, StaticDecoding, static_obstacle
from virft.models.attention.cache import GroupCache
from virft.models.attention.layout import pack_row, position_ids
from virft.models.policy import Policy, no_mask
from virft.models.stop_tokens import stop_token_ids
from virft.types import Completion, FinishReason

_COMPACT_BELOW = 0.85
"""Ended rows are dropped from the cache once the fraction of active rows is below this. Dropping copies the cache."""
_CHECK_EVERY = {"cpu": 1}
"""Tokens after which the host reads which rows have ended, by device. ``CHECK_EVERY`` on others, where it has to wait
for the device, which then runs out of work."""
_STATIC = {"cuda"}
"""Kinds of devices that decode with ``StaticDecoding``."""


class HFGenerator:
    """A ``Generator`` that runs the policy itself, in ``eval()`` and inference mode.

    On-policy by construction: sampler and policy are the same weights, rules and attention function, so their log-probs
    differ by rounding alone. With ``merge_adapters``, ``generate`` decodes with one copy of base and adapters, which is
    faster on a GPU and rounds the weights; its log-probs are then those of another engine. With ``cuda_graph``, a GPU
    replays each decode step of ``generate`` as one CUDA graph, where the model allows it.
    """

    def __init__(
        self, policy: Policy, tokenizer: Any, *, merge_adapters: bool = False, cuda_graph: bool = False
    ) -> None:
        self._policy = policy
        self._decoder = TextDecoder(tokenizer)
        self._stop_ids = stop_token_ids(policy.model)
        self._merged = policy.adapted_layers() if merge_adapters else []
        self.cuda_graph = cuda_graph
        self._obstacle = static_obstacle(policy)

    @property
    def merges_adapters(self) -> bool:
        """True if ``generate`` decodes with one copy of base and adapters."""
        return bool(self._merged)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> list[list[Completion]]:
        """Sample ``group_size`` completions of each prompt, in the order of the prompts."""
        # In train() with gradient checkpointing, layers would write no KV cache and decode without the prompt.
        was_training = self._policy.training
        self._policy.eval()
        try:
            with ready_for_sampling(self._policy.token_layers(), merged=self._merged):
                columns = list(self._columns(prompts, group_size, params, key, may_be_static=self.cuda_graph))
        finally:
            self._policy.train(was_training)
        drawn = self._by_completion(columns, len(prompts) * group_size)
        completions = [
            self._decoder.completion(*one, opened=prompts[i // group_size].prompt.opened) for i, one in enumerate(drawn)
        ]
        return [completions[i * group_size : (i + 1) * group_size] for i in range(len(prompts))]

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

    def _columns(
        self,
        prompts: Sequence[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
        *,
        may_be_static: bool = False,
    ) -> Iterator[Column]:
        """Prefill, then one column per decode step until all completions have ended.

        On a GPU, the host waits for the device every ``CHECK_EVERY`` tokens only; completions that have ended
        before are continued until then. ``may_be_static``: decode with ``StaticDecoding`` if the device is one for it.
        """
        policy, limit = self._policy, params.max_completion_tokens
        cache, distribution = self.prefill(prompts, group_size, limit)
        device = distribution.device
        # First position id of each completion, behind the largest of its prompt, as in `pack_row`: [R].
        start = torch.tensor([int(one.positions.max()) + 1 for one in prompts], device=device)
        start = start.repeat_interleave(group_size)
        axes = len(prompts[0].positions)

        # All random numbers are drawn before: a completion's do not depend on when others end. [R, limit], float64.
        streams = np.stack([key.uniforms(one.stream_id, g, limit) for one in prompts for g in range(group_size)])
        uniforms = torch.from_numpy(streams).to(device)
        # A table, not the ids: `torch.isin` sorts longer lists, and then the host waits.
        is_stop = torch.isin(torch.arange(distribution.shape[-1]), torch.tensor(sorted(self._stop_ids))).to(device)
        if may_be_static and device.type in _STATIC and self._obstacle:
            warnings.warn(f"decoding without CUDA graphs: {self._obstacle}", stacklevel=1)  # shown once
        elif may_be_static and device.type in _STATIC:
            static = StaticDecoding(
                policy,
                cache,
                start=start,
                uniforms=uniforms,
                is_stop=is_stop,
                num_axes=axes,
                draw=_most_likely if params.temperature == 0 else draw,
            )
            yield from static.columns(distribution)
            return
        forbidden, mask = policy.rules.forbidden_on(device), no_mask(distribution)
        rows = tuple(range(len(uniforms)))
        ended = torch.zeros(len(uniforms), dtype=torch.bool, device=device)
        check_every = _CHECK_EVERY.get(device.type, CHECK_EVERY)
        for step in range(limit):
            chosen = distribution.argmax(-1) if params.temperature == 0 else draw(distribution, uniforms[:, step])
            yield Column(rows, chosen, distribution.gather(-1, chosen[:, None])[:, 0])  # [R, V] -> [R]
            if step + 1 == limit:
                break
            ended |= is_stop.index_select(0, chosen)
            if (step + 1) % check_every == 0:
                active = (~ended.cpu()).nonzero()[:, 0]
                if not len(active):
                    break
                # Before, ended rows are decoded too and their tokens ignored, which is cheaper than copying.
                if len(active) < _COMPACT_BELOW * len(rows):
                    cache.keep_rows(active)
                    rows = tuple(rows[i] for i in active.tolist())
                    active = active.to(device)
                    chosen, ended, start, uniforms = (x[active] for x in (chosen, ended, start, uniforms))
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

    def _by_completion(self, columns: Sequence[Column], count: int) -> list[tuple[list[int], list[float], bool]]:
        """Token ids, log-probs and "has stopped" of every completion, each up to and including its stop token."""
        tokens: list[list[int]] = [[] for _ in range(count)]
        logprobs: list[list[float]] = [[] for _ in range(count)]
        for rows, group in groupby(columns, key=lambda column: column.rows):
            # All steps with the same rows are copied to the host together: [steps, R] each.
            found = list(group)
            chosen, values = torch.stack([one.tokens for one in found]), torch.stack([one.logprobs for one in found])
            for of_step in zip(chosen.tolist(), values.tolist(), strict=True):
                for row, token, logprob in zip(rows, *of_step, strict=True):
                    if not (tokens[row] and tokens[row][-1] in self._stop_ids):
                        tokens[row].append(token)
                        logprobs[row].append(logprob)
        return [(ids, values, ids[-1] in self._stop_ids) for ids, values in zip(tokens, logprobs, strict=True)]

    def prefill(self, prompts: Sequence[EncodedPrompt], group_size: int, limit: int) -> tuple[GroupCache, Tensor]:
        """Run all prompts once, in one packed row.

        Returns the KV cache, with room for ``limit`` tokens of every completion, and the log-probabilities of their
        first token, float32 [R, V].
        """
        policy = self._policy
        device = policy.model.get_input_embeddings().weight.device
        ids, positions = [one.prompt.token_ids for one in prompts], [one.positions for one in prompts]
        row = pack_row(ids, positions, [()] * len(prompts)).to(device)
        cache = GroupCache(row.layout, policy.config.get_text_config().num_hidden_layers, limit)
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
