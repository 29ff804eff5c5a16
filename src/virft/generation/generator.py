"""What a sampler does, whatever engine it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from virft.generation.random_streams import StepKey
from virft.models.vision import ImageFeatures
from virft.types import Completion, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationParams:
    """``temperature`` 0 takes the likeliest token; above 0 it must be that of the policy's ``TokenRules``."""

    max_completion_tokens: int
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPrompt:
    """A prompt with its rotary positions [A, L] and the features of its images.

    ``stream_id`` names its noise within a step: a sample that comes twice in a step must not give the same answers.
    """

    prompt: Prompt
    positions: Tensor
    features: ImageFeatures
    stream_id: str = ""


class Generator(Protocol):
    """Samples completions. Top-k and top-p are off, whatever a model's own generation config says."""

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> list[list[Completion]]:
        """``group_size`` completions of each prompt, in the order of the prompts."""
        ...

    def update(self) -> None:
        """The policy's weights have changed; what is generated from now on is by them."""
        ...

    def close(self) -> None:
        """Let go of memory and processes of its own; nothing is generated after this."""
        ...
