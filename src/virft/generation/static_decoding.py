"""Decode steps of constant shape, which a GPU replays as one CUDA graph per token.

An eager decode step is some thousand small kernels, and launching them takes longer than running them. A step here
reads and writes tensors of fixed shape and place: the newest tokens, their number, and a static KV cache with a bias
that hides what is not written yet. So the same launches compute every token. The shape changes only

- when half of the rows have ended, which are then dropped, and
- when the number of tokens exceeds the span of the KV cache that attention reads, which then doubles.

After a change, one step runs eagerly and the next ones are captured anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from virft.models.attention.cache import GroupCache
from virft.models.attention.layout import position_ids
from virft.models.policy import Policy, no_mask

CHECK_EVERY = 16
"""Tokens after which the host reads which rows have ended."""
FIRST_SPAN = 64
"""Own tokens of a row that attention reads at first. Doubled until all fit: at most half of what is read is empty."""


class Column(NamedTuple):
    """One decode step: the next token of each active row, [R] each."""

    rows: tuple[int, ...]
    """Number of the completion in each row: prompt * group_size + number in the group."""
    tokens: Tensor
    """Sampled token, int64."""
    logprobs: Tensor
    """Its log-prob under the policy's rules, float32, in nats."""


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """Return a function that does what ``step`` does, as one CUDA graph. ``step`` must have run before.

    Nothing is computed here. Tests replace this function.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def static_obstacle(policy: Policy) -> str:
    """Return the reason why the policy cannot decode with steps of constant shape; "" if it can."""
    if getattr(policy.model, "is_quantized", False):
        return "its weights are quantized"
    scaling: Any = getattr(policy.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {str(one.get("rope_type")) for one in (scaling, *scaling.values()) if isinstance(one, dict)}
    if found := kinds & {"dynamic", "longrope"}:
        return f"its rotary embeddings depend on the length of the sequence ({found.pop()})"
    return ""


class StaticDecoding:
    """Decoding of R rows in steps of constant shape.

    ``cache``: after the prefill and ``start_rows``. ``start``: first position id of each completion, int64 [R].
    ``uniforms``: random numbers, float64 [R, limit]. ``is_stop``: bool [V]. ``draw`` takes log-probabilities [R, V] and
    numbers [R], and returns tokens, int64 [R].
    """

    def __init__(
        self,
        policy: Policy,
        cache: GroupCache,
        *,
        start: Tensor,
        uniforms: Tensor,
        is_stop: Tensor,
        num_axes: int,
        draw: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._policy = policy
        self._cache = cache
        self._start, self._uniforms, self._is_stop = start, uniforms, is_stop
        self._num_axes = num_axes
        self._draw = draw
        self._rows = tuple(range(len(start)))
        self._forbidden, self._mask = policy.rules.forbidden_on(start.device), no_mask(start)
        self._chosen = torch.zeros_like(start)
        self._ended = torch.zeros_like(start, dtype=torch.bool)
        self._tokens = start.new_zeros(uniforms.shape)
        self._logprobs = torch.zeros_like(uniforms, dtype=torch.float32)
        # Number of the newest token. A tensor: a Python number would be the same at every replay.
        self._newest = start.new_zeros(1)

    def columns(self, distribution: Tensor) -> Iterator[Column]:
        """Yield the tokens after those of the prefill, whose log-probabilities are ``distribution`` [R, V].

        Ends when all rows have ended, which the host reads every ``CHECK_EVERY`` tokens, or at the limit.
        """
        limit = self._uniforms.shape[1]
        self._cache.make_static(self._newest, min(FIRST_SPAN, limit))
        self._take(distribution)
        first, done = 0, 1
        replay: Callable[[], None] | None = None
        while done < limit:
            if done % CHECK_EVERY == 0:
                active = (~self._ended.cpu()).nonzero()[:, 0]
                if not len(active):
                    break
                if 2 * len(active) <= len(self._rows):
                    yield from self._columns(first, done)
                    first, replay = done, None
                    self._keep_rows(active)
            if done > self._cache.span:
                self._cache.span = min(2 * self._cache.span, limit)
                replay = None
            if replay is None:
                # A graph needs an eager run before, which is a token like any other.
                self._step()
                replay = capture(self._step)
            else:
                replay()
            done += 1
        yield from self._columns(first, done)

    def _step(self) -> None:
        """Compute the next token of every row. No value reaches the host, and no tensor of the state is replaced."""
        self._cache.begin_token()
        hidden = self._policy.model.model(
            input_ids=self._chosen[:, None],  # [R, 1]
            # [R] -> [axes, R, 1]
            position_ids=position_ids((self._start + self._newest).expand(self._num_axes, -1)[..., None]),
            attention_mask=self._mask,
            past_key_values=self._cache,
            group_cache=self._cache,
            use_cache=True,
        ).last_hidden_state[:, 0]  # [R, hidden]
        self._newest += 1
        self._take(self._policy.next_log_distribution(hidden, self._forbidden))

    def _take(self, distribution: Tensor) -> None:
        """Draw the newest token of each row from log-probabilities [R, V], and store it."""
        chosen = self._draw(distribution, self._uniforms.index_select(1, self._newest)[:, 0])
        self._chosen.copy_(chosen)
        self._tokens.index_copy_(1, self._newest, chosen[:, None])
        self._logprobs.index_copy_(1, self._newest, distribution.gather(-1, chosen[:, None]))
        self._ended |= self._is_stop.index_select(0, chosen)

    def _keep_rows(self, active: Tensor) -> None:
        """Continue with some rows only: int64 [R'], on the CPU."""
        self._cache.keep_rows(active)
        self._rows = tuple(self._rows[i] for i in active.tolist())
        kept = active.to(self._start.device)
        self._start, self._uniforms = self._start[kept], self._uniforms[kept]
        self._chosen, self._ended = self._chosen[kept], self._ended[kept]
        self._tokens, self._logprobs = self._tokens[kept], self._logprobs[kept]

    def _columns(self, first: int, last: int) -> Iterator[Column]:
        """The columns of tokens ``first`` to ``last`` - 1."""
        for i in range(first, last):
            yield Column(self._rows, self._tokens[:, i], self._logprobs[:, i])
