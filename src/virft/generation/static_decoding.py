"""Decode steps of constant shape: for rows that begin at different times, and for CUDA graphs.

A step here reads and writes tensors of fixed shape and place: the newest token of each row, its number, and a static KV
cache with a bias that hides what is not written yet. That serves two purposes:

- **Continuous batching.** Where more prompts wait than are sampled concurrently, a prompt takes the place of one whose
  completions have all ended, while the other rows continue::

      place 1   p1 p1 p1 p1 p1 p1 p1 p1 p1 p1 p1
      place 2   p2 p2 p2 - p4 p4 p4 p4 p4 p4 p4
      place 3   p3 p3 p3 - p5 p5 p5 p5 -              (-: decoded, but ended)

- **CUDA graphs.** An eager decode step is some thousand small kernels, and launching them takes longer than running
  them. As the same launches compute every token, a GPU can replay them as one graph. After a change of the shape, one
  step runs eagerly and the next ones are captured anew.

The shape changes only

- when no prompt waits and enough rows have ended, which are then dropped,
- when the number of own tokens exceeds the span of the KV cache that attention reads, and
- when a prompt is longer than all before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from virft.generation.generator import EncodedPrompt
from virft.models.attention.cache import GroupCache
from virft.models.attention.layout import position_ids
from virft.models.experts import has_wide_experts
from virft.models.policy import Policy, no_mask

CHECK_EVERY = 16
"""Tokens after which the host reads which rows have ended, on a device for which it has to wait."""
FIRST_SPAN = 64
"""Own tokens of a row that attention reads at first. Doubled until all fit: at most half of what is read is empty."""
ADMIT_ABOVE = 0.25
"""Waiting prompts are prefilled when at least this fraction of the places is free. A prefill delays all other rows."""


class Prefilled(NamedTuple):
    """Prompts after their prefill, with ``group_size`` rows (R) each."""

    numbers: tuple[int, ...]
    """Number of the completion in each row: prompt * group_size + number in the group."""
    cache: GroupCache
    """Their KV cache."""
    distribution: Tensor
    """Log-probabilities of the first token of each row, float32 [R, V]."""
    start: Tensor
    """First position id of each completion, behind the largest of its prompt, int64 [R]."""
    uniforms: Tensor
    """Random numbers of each completion, float64 [R, limit]."""


class Piece(NamedTuple):
    """Consecutive tokens of R completions."""

    numbers: tuple[int, ...]
    """Number of each completion, as in ``Prefilled``."""
    lengths: tuple[int, ...]
    """Tokens of each; those after its stop token are ignored."""
    tokens: Tensor
    """Sampled tokens, int64 [R, T], T at least as large as the lengths."""
    logprobs: Tensor
    """Log-probs under the policy's rules, float32 [R, T], in nats."""


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """Return a function that does what ``step`` does, as one CUDA graph. ``step`` must have run before.

    Nothing is computed here. Tests replace this function.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def static_obstacle(policy: Policy) -> str:
    """Return the reason why steps of the policy cannot be captured; "" if they can."""
    if getattr(policy.model, "is_quantized", False):
        return "its weights are quantized"
    if has_wide_experts(policy.model, kind="cuda"):
        return "its experts are not in bfloat16"
    scaling: Any = getattr(policy.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {str(one.get("rope_type")) for one in (scaling, *scaling.values()) if isinstance(one, dict)}
    if found := kinds & {"dynamic", "longrope"}:
        return f"its rotary embeddings depend on the length of the sequence ({found.pop()})"
    return ""


class PromptQueue:
    """Prompts that wait to be sampled, taken from an iterable when they are needed."""

    def __init__(self, prompts: Iterable[EncodedPrompt]) -> None:
        self._left = enumerate(prompts)
        self._next = next(self._left, None)
        self.opened: list[str] = []
        """``Prompt.opened`` of each prompt that was taken."""

    @property
    def answers_calls(self) -> bool:
        """True if the zoom calls of the next prompt, and so of all, are answered."""
        return self._next is not None and self._next[1].answer_call is not None

    def __bool__(self) -> bool:
        """True if a prompt waits."""
        return self._next is not None

    def take(self, count: int | None = None) -> list[tuple[int, EncodedPrompt]]:
        """Return the next prompts with their numbers, at most ``count``; None returns all."""
        taken: list[tuple[int, EncodedPrompt]] = []
        while self._next is not None and (count is None or len(taken) < count):
            taken.append(self._next)
            self.opened.append(self._next[1].prompt.opened)
            self._next = next(self._left, None)
        return taken


class StaticDecoding:
    """Decoding of R rows in steps of constant shape.

    ``first``: the prompts to begin with, P of them. ``queue``: prompts that wait. ``prefill`` returns some of them,
    prefilled, with caches that need no room for own tokens. ``is_stop``: bool [V]. ``draw`` takes log-probabilities
    [R, V] and numbers [R], and returns tokens, int64 [R]. ``captures``: replay steps as CUDA graphs. ``check_every``:
    tokens after which the host reads which rows have ended. ``compact_below``: if no prompt waits and at most this
    fraction of the rows is active, the others are dropped.
    """

    def __init__(
        self,
        policy: Policy,
        first: Prefilled,
        *,
        queue: PromptQueue,
        prefill: Callable[[Sequence[tuple[int, EncodedPrompt]]], Prefilled],
        is_stop: Tensor,
        num_axes: int,
        draw: Callable[[Tensor, Tensor], Tensor],
        captures: bool,
        check_every: int,
        compact_below: float,
    ) -> None:
        self._policy = policy
        self._cache = first.cache
        self._start, self._is_stop = first.start, is_stop
        self._queue = queue
        self._prefill = prefill
        self._num_axes = num_axes
        self._draw = draw
        self._captures = captures
        self._check_every = check_every
        self._compact_below = compact_below
        self._limit = first.uniforms.shape[1]
        # One column more than tokens: a row that has all of them may have to wait, and is then decoded into this one.
        self._uniforms = F.pad(first.uniforms, (0, 1))
        self._forbidden, self._mask = policy.rules.forbidden_on(first.start.device), no_mask(first.start)
        self._chosen = torch.zeros_like(first.start)
        self._ended = torch.zeros_like(first.start, dtype=torch.bool)
        self._tokens = first.start.new_zeros(self._uniforms.shape)
        self._logprobs = torch.zeros_like(self._uniforms, dtype=torch.float32)
        # Number of each row's newest token. A tensor: a Python number would be the same at every replay.
        self._newest = torch.zeros_like(first.start)
        # On the host, of each row: number of the completion, number of tokens, and True if it is known to have ended.
        self._numbers = torch.tensor(first.numbers)
        self._ages = torch.ones_like(self._numbers)
        self._over = torch.zeros_like(self._numbers, dtype=torch.bool)
        self._take(first.distribution)

    def pieces(self) -> Iterator[Piece]:
        """Yield all completions, each in one piece, when the row is needed no more."""
        self._cache.make_static(self._newest, min(FIRST_SPAN, self._limit))
        replay: Callable[[], None] | None = None
        for num_tokens in count(1):
            if num_tokens % self._check_every == 0:
                self._over |= self._ended.cpu()
            # What the host knows without reading.
            self._over |= self._ages == self._limit
            if self._queue:
                # While prompts wait, no row has been dropped: each prompt has the same number of rows.
                rows = torch.arange(len(self._over)).view(len(self._cache.prompt_lengths), -1)  # [P, group_size]
                free = self._over[rows].all(1).nonzero()[:, 0]
                if len(free) >= ADMIT_ABOVE * len(rows):
                    taken = self._queue.take(len(free))
                    free = free[: len(taken)]
                    replaced = rows[free].flatten()
                    yield self._piece(replaced)
                    if self._replace(free, replaced, self._prefill(taken)):
                        replay = None
            else:
                active = (~self._over).nonzero()[:, 0]
                if not len(active):
                    break
                if len(active) <= self._compact_below * len(self._over):
                    yield self._piece(self._over.nonzero()[:, 0])
                    self._keep_rows(active)
                    replay = None
            if self._widen():
                replay = None
            if replay is not None:
                replay()
            else:
                # A graph needs an eager run before, which is a token like any other.
                self._step()
                replay = capture(self._step) if self._captures else None
            self._ages = (self._ages + 1).clamp_max(self._limit)
        yield self._piece(torch.arange(len(self._over)))

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
        self._newest.clamp_(max=self._limit - 1)

    def _take(self, distribution: Tensor) -> None:
        """Draw the newest token of each row from log-probabilities [R, V], and store it."""
        newest = self._newest[:, None]
        chosen = self._draw(distribution, self._uniforms.gather(1, newest)[:, 0])
        self._chosen.copy_(chosen)
        self._tokens.scatter_(1, newest, chosen[:, None])
        self._logprobs.scatter_(1, newest, distribution.gather(-1, chosen[:, None]))
        self._ended |= self._is_stop.index_select(0, chosen)

    def _replace(self, prompts: Tensor, rows: Tensor, new: Prefilled) -> bool:
        """Let other prompts take the places of ``prompts``, and their first tokens those of ``rows``, all in place.

        Both int64, on the CPU. Return True if a captured step cannot be used any more.
        """
        self._numbers[rows] = torch.tensor(new.numbers)
        self._ages[rows] = 1
        self._over[rows] = False
        prompts, rows = (x.to(self._start.device) for x in (prompts, rows))
        chosen = self._draw(new.distribution, new.uniforms[:, 0])
        logprobs = new.distribution.gather(-1, chosen[:, None])[:, 0]
        self._start.index_copy_(0, rows, new.start)
        self._uniforms[:, : self._limit].index_copy_(0, rows, new.uniforms)
        self._chosen.index_copy_(0, rows, chosen)
        self._ended.index_copy_(0, rows, self._is_stop.index_select(0, chosen))
        self._newest.index_fill_(0, rows, 0)
        self._tokens[:, 0].index_copy_(0, rows, chosen)
        self._logprobs[:, 0].index_copy_(0, rows, logprobs)
        return self._cache.replace_prompts(prompts, new.cache)

    def _widen(self) -> bool:
        """Let attention read all tokens of the active rows; return True if a captured step reads too few."""
        needed = int(self._ages.masked_fill(self._over, 1).max())
        if not self._captures:
            self._cache.span = needed
        elif needed > self._cache.span:
            self._cache.span = min(2 * self._cache.span, self._limit)
            return True
        return False

    def _keep_rows(self, active: Tensor) -> None:
        """Continue with some rows only: int64 [R'], on the CPU."""
        self._cache.keep_rows(active)
        self._numbers, self._ages, self._over = self._numbers[active], self._ages[active], self._over[active]
        kept = active.to(self._start.device)
        self._start, self._uniforms, self._newest = self._start[kept], self._uniforms[kept], self._newest[kept]
        self._chosen, self._ended = self._chosen[kept], self._ended[kept]
        self._tokens, self._logprobs = self._tokens[kept], self._logprobs[kept]
        self._cache.follow(self._newest)

    def _piece(self, rows: Tensor) -> Piece:
        """The completions in some rows: int64 [N], on the CPU."""
        lengths = self._ages[rows]
        chosen, longest = rows.to(self._start.device), int(lengths.max())
        # Copies, because the places get other values.
        tokens, logprobs = (x[:, :longest].index_select(0, chosen) for x in (self._tokens, self._logprobs))
        return Piece(tuple(self._numbers[rows].tolist()), tuple(lengths.tolist()), tokens, logprobs)
