"""Small rewarded groups without a model, so that a test says only what it is about."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from factories import reading, sample
from virft.generation.generator import EncodedPrompt
from virft.models.vision import ImageFeatures
from virft.types import (
    Completion,
    Detections,
    FinishReason,
    ImageRef,
    ImageSize,
    Prompt,
    RewardReport,
    RolloutGroup,
    Unreadable,
)


def completion(
    token_ids: Sequence[int], *, logprobs: Sequence[float] | None = None, text: str = "", cut: bool = False
) -> Completion:
    """These tokens, each with log-prob -1 unless said otherwise."""
    return Completion(
        token_ids=tuple(token_ids),
        token_ends=(len(text),) * len(token_ids),
        sampler_logprobs=tuple(logprobs) if logprobs is not None else (-1.0,) * len(token_ids),
        text=text,
        finish_reason=FinishReason.LENGTH if cut else FinishReason.STOP,
    )


def report(total: float, *, unreadable: bool = False, **parts: float) -> RewardReport:
    """A reward of this total."""
    answer = Unreadable(reason="no answer block") if unreadable else Detections()
    return RewardReport(total=total, parts=parts, reading=reading(answer))


def prompt(token_ids: Sequence[int] = (1, 2, 3), *, sample_id: str = "a") -> Prompt:
    """A prompt about one image of 64 x 48."""
    image = ImageRef(path="a.png", original=ImageSize(64, 48), resized=ImageSize(56, 56))
    return Prompt(sample_id=sample_id, text="?", token_ids=tuple(token_ids), images=(image,))


def group(
    rewards: Sequence[float], lengths: Sequence[int] | None = None, *, prompt_length: int = 3, id: str = "a"
) -> RolloutGroup:
    """A group of these rewards; completions are 10, 11, 12, .. of these lengths (2 each by default).

    Token t of completion g has the sampler log-prob -(g + 1) - t / 10.
    """
    lengths = lengths or (2,) * len(rewards)
    completions = tuple(
        completion(range(10, 10 + length), logprobs=[-(g + 1) - t / 10 for t in range(length)])
        for g, length in enumerate(lengths)
    )
    return RolloutGroup(
        sample=sample(id=id),
        prompt=prompt(range(1, 1 + prompt_length), sample_id=id),
        completions=completions,
        reports=tuple(report(reward) for reward in rewards),
        policy_step=0,
    )


def encode(*groups: RolloutGroup) -> list[EncodedPrompt]:
    """The groups' prompts with positions 0, 1, 2, .. on every axis and no images."""
    return [
        EncodedPrompt(
            prompt=one.prompt,
            positions=torch.arange(len(one.prompt.token_ids)).expand(3, -1),
            features=ImageFeatures(tokens=()),
        )
        for one in groups
    ]
