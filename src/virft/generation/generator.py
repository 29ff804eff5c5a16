"""The interface of a sampler, for every inference engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from virft.generation.random_streams import StepKey
from virft.models.renderer import AnswerCall
from virft.models.vision import ImageFeatures
from virft.types import Completion, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationParams:
    """Parameters of sampling."""

    max_completion_tokens: int
    """Tokens after which a completion is truncated, its stop token included."""

    temperature: float = 1.0
    """0: greedy decoding. Above 0: must equal the temperature of the policy's ``TokenRules``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPrompt:
    """A prompt whose images have gone through the vision tower."""

    prompt: Prompt
    """Text and token ids."""

    positions: Tensor
    """Rotary position ids along A axes, int64 [A, L]."""

    features: ImageFeatures
    """Features of its images."""

    stream_id: str = ""
    """Name of its random stream within a step. A sample that is drawn twice in a step needs two, or its completions
    would be the same."""

    answer_call: AnswerCall | None = None
    """Answers the zoom calls of its completions, which then have a second turn; None: they are not answered. The limit
    of tokens is one for the sampled tokens of both turns. Only the built-in generator takes it."""


Sampling = Callable[[], list[list[Completion]]]
"""Waits for completions that are being sampled, and returns those of each prompt, in order; may be called again. Raises
the error that sampling ended with: after ``SamplerLost``, ``generate`` may sample the prompts again."""


class Generator(Protocol):
    """Samples completions of a policy. Top-k and top-p are off, whatever a model's own generation config says."""

    def generate(
        self,
        prompts: Iterable[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> list[list[Completion]]:
        """Sample ``group_size`` completions of each prompt, in the order of the prompts.

        Equal weights, prompts and keys give equal completions. With several ranks, each of them calls this equally
        often, some without prompts: an engine may sample one batch for several ranks.
        """
        ...

    def begin(
        self,
        prompts: Iterable[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> Sampling:
        """Begin to sample what ``generate`` returns, with the current weights, which may change from now on.

        An engine in another process samples while this one continues; a generator that shares the memory of the policy
        samples before it returns. At most one call at a time: later ones wait for it.
        """
        ...

    def update(self) -> None:
        """Declare that the policy's weights have changed; later calls of ``generate`` use the new ones."""
        ...

    def close(self) -> None:
        """Release its memory and processes; ``generate`` must not be called after this."""
        ...
