"""From completions to rewarded groups: parse, reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from virft.generation.generator import EncodedPrompt
from virft.models.renderer import RenderedPrompt, RenderedTurn
from virft.tasks.grader import Grader
from virft.training.grpo.advantages import GroupAdvantages
from virft.training.grpo.demonstrations import Demonstration
from virft.types import (
    Completion,
    Prompt,
    RewardContext,
    RolloutGroup,
    Sample,
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
    return RolloutGroup(
        sample=sample,
        prompt=prompt,
        completions=tuple(completions),
        reports=tuple(
            grader.grade_group([one.text for one in completions], sample, resized=resized, contexts=contexts)
        ),
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
