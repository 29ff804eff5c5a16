"""Sampling with the policy's own weights: each prompt once, its cache shared by its completions."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.random_streams import StepKey
from virft.generation.sampling_weights import ready_for_sampling
from virft.models.attention.cache import GroupCache
from virft.models.attention.layout import pack_row, position_ids
from virft.models.policy import Policy, no_mask
from virft.types import Completion, FinishReason

_COMPACT_BELOW = 0.85
"""Ended rows are dropped once fewer than this share of the rows is alive: dropping copies the cache."""


class _Column(NamedTuple):
    """A token of each row [R] that goes on: the number of its completion, the token, its log-prob."""

    rows: Tensor
    tokens: Tensor
    logprobs: Tensor


class HFGenerator:
    """A ``Generator`` that runs the policy itself, in ``eval()`` and inference mode."""

    def __init__(self, policy: Policy, tokenizer: Any) -> None:
        self._policy = policy
        self._decoder = TextDecoder(tokenizer)
        self._stop_ids = stop_token_ids(policy.model)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> list[list[Completion]]:
        """``group_size`` completions of each prompt, in the order of the prompts."""
        was_training = self._policy.training
        self._policy.eval()
        try:
            with ready_for_sampling(self._policy.token_layers()):
                columns = list(self._columns(prompts, group_size, params, key))
        finally:
            self._policy.train(was_training)
        drawn = self._by_completion(columns, len(prompts) * group_size)
        completions = [
            self._decoder.completion(*one, opened=prompts[i // group_size].prompt.opened) for i, one in enumerate(drawn)
        ]
        return [completions[i * group_size : (i + 1) * group_size] for i in range(len(prompts))]

    @torch.inference_mode()
    def stream(self, prompt: EncodedPrompt, params: GenerationParams, key: StepKey) -> Generator[str, None, Completion]:
        """The text so far, after every token; returned in the end, the completion that ``generate`` gives.

        For a policy in ``eval()``: between two tokens anyone may come, so its mode is not changed.
        """
        opened = prompt.prompt.opened
        tokens: list[int] = []
        logprobs: list[float] = []
        for column in self._columns([prompt], 1, params, key):
            tokens += column.tokens.tolist()
            logprobs += column.logprobs.tolist()
            yield opened + self._decoder.text([token for token in tokens if token not in self._stop_ids])
        return self._decoder.completion(tokens, logprobs, tokens[-1] in self._stop_ids, opened=opened)

    def _columns(
        self,
        prompts: Sequence[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> Iterator[_Column]:
        """The next token of every completion that goes on, as often as there is one."""
        policy, limit = self._policy, params.max_completion_tokens
        cache, distribution = self.prefill(prompts, group_size, limit)
        device = distribution.device
        start = torch.tensor([int(one.positions.max()) + 1 for one in prompts], device=device)
        start = start.repeat_interleave(group_size)
        axes = len(prompts[0].positions)

        noise = np.stack([key.uniforms(one.stream_id, g, limit) for one in prompts for g in range(group_size)])
        uniforms = torch.from_numpy(noise).to(device)
        stop = torch.tensor(sorted(self._stop_ids), device=device)
        rows = torch.arange(len(uniforms), device=device)  # number of the completion in each row
        ended = torch.zeros(len(uniforms), dtype=torch.bool, device=device)
        for step in range(limit):
            chosen = distribution.argmax(-1) if params.temperature == 0 else draw(distribution, uniforms[:, step])
            yield _Column(rows, chosen, distribution.gather(-1, chosen[:, None])[:, 0])
            ended |= torch.isin(chosen, stop)
            num_going = len(rows) - int(ended.sum())
            if step + 1 == limit or not num_going:
                break
            if num_going < _COMPACT_BELOW * len(rows):
                going = (~ended).nonzero()[:, 0]
                cache.keep_rows(going)
                rows, chosen, ended, start, uniforms = (x[going] for x in (rows, chosen, ended, start, uniforms))
            hidden = policy.model.model(
                input_ids=chosen[:, None],
                position_ids=position_ids((start + step).expand(axes, -1)[..., None]),
                attention_mask=no_mask(chosen),
                past_key_values=cache,
                group_cache=cache,
                use_cache=True,
            ).last_hidden_state[:, 0]
            distribution = policy.next_log_distribution(hidden)

    def _by_completion(self, columns: Sequence[_Column], count: int) -> list[tuple[list[int], list[float], bool]]:
        """Token ids, log-probs and "ended by itself" of every completion, each cut after its end token."""
        tokens: list[list[int]] = [[] for _ in range(count)]
        logprobs: list[list[float]] = [[] for _ in range(count)]
        for column in columns:
            for row, token, logprob in zip(*(part.tolist() for part in column), strict=True):
                if not (tokens[row] and tokens[row][-1] in self._stop_ids):
                    tokens[row].append(token)
                    logprobs[row].append(logprob)
        return [(ids, values, ids[-1] in self._stop_ids) for ids, values in zip(tokens, logprobs, strict=True)]

    def prefill(self, prompts: Sequence[EncodedPrompt], group_size: int, limit: int) -> tuple[GroupCache, Tensor]:
        """Each prompt once: a cache for ``limit`` tokens of every completion, the log-probs [R, V] of their first."""
        policy = self._policy
        device = policy.model.get_input_embeddings().weight.device
        ids, positions = [one.prompt.token_ids for one in prompts], [one.positions for one in prompts]
        row = pack_row(ids, positions, [()] * len(prompts)).to(device)
        cache = GroupCache(row.layout, policy.config.get_text_config().num_hidden_layers, limit)
        features = [one.features for one in prompts]
        hidden = policy.hidden_states(row, features, past_key_values=cache, group_cache=cache)
        cache.start_rows(group_size)
        distribution = policy.next_log_distribution(hidden[row.layout.prompt_lengths.cumsum(0) - 1])
        return cache, distribution.repeat_interleave(group_size, 0)

    def update(self) -> None:
        """Nothing to do: it samples with the policy's own weights."""

    def close(self) -> None:
        """Nothing is held."""


def draw(log_distribution: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row [R] of log-probabilities [R, V] by inverting the cumulative sum at ``uniforms`` [R].

    The sum runs in float64: in float32 the tail of a large vocabulary would be lost. Never a token of probability 0.
    """
    cumulative = log_distribution.exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    level = torch.minimum(uniforms.double()[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level, right=True)[:, 0]


def stop_token_ids(model: Any) -> set[int]:
    """End tokens of the model's generation config, else of its text configuration."""
    found = model.generation_config.eos_token_id if model.generation_config is not None else None
    if found is None:
        found = model.config.get_text_config().eos_token_id
    return set(found) if isinstance(found, list | tuple) else {int(found)}


class TextDecoder:
    """Text of sampled tokens with the place of each; special tokens stay visible."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def completion(
        self, token_ids: Sequence[int], logprobs: Sequence[float], stopped: bool, *, opened: str
    ) -> Completion:
        """What was sampled, as a completion; ``stopped``: its last token is an end token, which is no text.

        ``opened``: the text of an answer begins with what the prompt has written of it.
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
        """The text, and how many of its characters the first i + 1 tokens make."""
        pieces = [self._piece(token) for token in token_ids]
        if not any("\ufffd" in piece for piece in pieces):
            return "".join(pieces), list(accumulate(len(piece) for piece in pieces))
        # a character of several tokens: until it is complete, its bytes decode to a replacement mark
        text = self.text(token_ids)
        return text, [min(len(text), len(self.text(token_ids[: i + 1]))) for i in range(len(token_ids))]

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.text([token])
        return self._pieces[token]

    def text(self, token_ids: Sequence[int]) -> str:
        """The text alone."""
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )
