"""From completions to rewarded groups: parse, reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from virft.errors import NonFiniteReward
from virft.generation.generator import EncodedPrompt
from virft.models.renderer import RenderedPrompt, RenderedTurn
from virft.tasks.grader import Grader
from virft.training.grpo.advantages import GroupAdvantages
from virft.training.grpo.demonstrations import Demonstration
from virft.types import (
    Completion,
    ImageSize,
    Prompt,
    Reading,
    RewardContext,
    RewardReport,
    RolloutGroup,
    Sample,
    Unreadable,
)


class Drawn(NamedTuple):
    """Prompts, their image features and a rewarded group for each, of the samples of one rank, in order."""

    rendered: list[RenderedPrompt]
    encoded: list[EncodedPrompt]
    groups: list[RolloutGroup]
    demonstrations: list[tuple[Demonstration, ...]]
    """Those of each group; none without ``grpo.demonstrations``."""
    turns: list[tuple[RenderedTurn | None, ...]]
    """Tool turn of each completion of each group; None for a completion of one turn."""

    def extended(self, more: Drawn) -> Drawn:
        """These prompts and groups, then the others."""
        return Drawn(
            [*self.rendered, *more.rendered],
            [*self.encoded, *more.encoded],
            [*self.groups, *more.groups],
            [*self.demonstrations, *more.demonstrations],
            [*self.turns, *more.turns],
        )

    def images(self, group: int, member: int | None) -> RenderedPrompt | RenderedTurn:
        """A prompt, or the tool turn of a completion: a source of images in a row (``Microbatch.images``)."""
        if member is None:
            return self.rendered[group]
        turn = self.turns[group][member]
        assert turn is not None, "a completion of one turn has no images"
        return turn


class Rollout(NamedTuple):
    """All groups of a step. ``own`` are those of this rank, which computes their gradients.

    ``groups`` are those of all ranks: ``num_first`` for the samples of the batch, then those of dynamic sampling.
    """

    own: Drawn
    own_advantages: list[GroupAdvantages]
    """Of each group of ``own`` and its demonstrations."""
    groups: list[RolloutGroup]
    num_first: int
    demonstrations: list[tuple[Demonstration, ...]]
    """Those of each of ``groups``."""
    advantages: list[GroupAdvantages]
    """Of each of ``groups`` and its demonstrations."""

    def extended(self, more: Rollout) -> Rollout:
        """These groups, then the others, as groups of dynamic sampling."""
        return Rollout(
            self.own.extended(more.own),
            [*self.own_advantages, *more.own_advantages],
            [*self.groups, *more.groups],
            self.num_first,
            [*self.demonstrations, *more.demonstrations],
            [*self.advantages, *more.advantages],
        )

    @property
    def first(self) -> list[RolloutGroup]:
        """The groups of the batch's own samples."""
        return self.groups[: self.num_first]

    @property
    def refilled(self) -> list[RolloutGroup]:
        """The groups of dynamic sampling."""
        return self.groups[self.num_first :]

    @property
    def counted(self) -> list[RolloutGroup]:
        """The groups in the denominator of the loss: as many as the batch has, those with an advantage first."""
        order = sorted(range(len(self.groups)), key=lambda number: not self.advantages[number].has_signal)
        return [self.groups[number] for number in order[: self.num_first]]

    @property
    def num_zero_std(self) -> int:
        """The number of groups without an advantage that are still to be replaced."""
        return max(0, self.num_first - sum(one.has_signal for one in self.advantages))


def reward_groups(
    samples: Sequence[Sample],
    rendered: Sequence[RenderedPrompt],
    completions: Sequence[Sequence[Completion]],
    *,
    grader: Grader,
    policy_step: int,
    context: RewardContext,
) -> list[RolloutGroup]:
    """One rewarded group for each sample and its completions. ``policy_step``: step whose weights sampled them."""
    return [
        _group(sample, one.prompt, of_prompt, grader, policy_step, context)
        for sample, one, of_prompt in zip(samples, rendered, completions, strict=True)
    ]


def _group(
    sample: Sample,
    prompt: Prompt,
    completions: Sequence[Completion],
    grader: Grader,
    policy_step: int,
    context: RewardContext,
) -> RolloutGroup:
    # Boxes of Qwen2.5-VL and others are in pixels of the resized image, so the parser needs its size.
    resized = prompt.images[sample.target_image].resized
    # the number of tokens, for the length penalty, is the one fact that differs between completions
    contexts = [replace(context, num_tokens=len(one.token_ids)) for one in completions]
    texts = [one.text for one in completions]
    return RolloutGroup(
        sample=sample,
        prompt=prompt,
        completions=tuple(completions),
        reports=tuple(grade_texts(texts, sample, resized, grader, contexts)),
        policy_step=policy_step,
    )


def rendered_turns(rendered: RenderedPrompt, completions: Sequence[Completion]) -> tuple[RenderedTurn | None, ...]:
    """The tool turn of each completion of a prompt, as the sampler had it; None for a completion of one turn."""

    def turn_of(one: Completion) -> RenderedTurn | None:
        if (zoom := one.zoom) is None:
            return None
        assert rendered.answer_call is not None
        return rendered.answer_call(zoom.text, one.token_ids[: zoom.num_tokens])

    return tuple(map(turn_of, completions))


def grade_texts(
    texts: Sequence[str], sample: Sample, resized: ImageSize, grader: Grader, contexts: Sequence[RewardContext]
) -> list[RewardReport]:
    """The reward of each completion of a sample; NaN in total if a user's function returns a number that is not finite.

    A segmenter gets the boxes of all completions in one call.
    """
    readings = [grader.read(text, sample, resized=resized) for text in texts]
    segmented = grader.segment_answers(sample, readings)
    return [
        _reward(reading, sample, grader, replace(context, segmented=mask))
        for reading, mask, context in zip(readings, segmented, contexts, strict=True)
    ]


def _reward(reading: Reading, sample: Sample, grader: Grader, context: RewardContext) -> RewardReport:
    try:
        return grader.reward(reading, sample, context)
    except NonFiniteReward as error:
        # The trainer skips the whole step and names the function, once all groups are known.
        unusable = Reading(text=reading.text, well_formed=False, answer=Unreadable(reason=str(error)))
        return RewardReport(total=math.nan, parts={}, reading=unusable)
