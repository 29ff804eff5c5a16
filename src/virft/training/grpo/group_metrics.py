"""What the groups of a step say: means over its completions, and the group that a step is shown by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from virft.tasks import TASKS
from virft.training.grpo.advantages import group_advantages, has_spread
from virft.types import Answer, RolloutGroup, Unreadable


def group_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over the completions of a step: reward and its parts, length, shares of what went wrong.

    With several sets, also ``reward@SET`` of those that are in the step. ``entropy``: of the sampler, nats a token, as
    its own log-probs estimate it.
    """
    reports = [report for group in groups for report in group.reports]
    completions = [completion for group in groups for completion in group.completions]
    names = sorted({name for report in reports for name in report.parts})
    parts = {
        f"reward_{name}": fmean(report.parts[name] for report in reports if name in report.parts) for name in names
    }
    return {
        "reward": fmean(report.total for report in reports),
        **parts,
        **_rewards_by_origin(groups),
        "completion_tokens": fmean(len(one.token_ids) for one in completions),
        "num_tokens": num_tokens(groups),
        "unreadable_frac": fmean(isinstance(report.reading.answer, Unreadable) for report in reports),
        "truncated_frac": fmean(one.truncated for one in completions),
        "spread_frac": fmean(has_spread(group.rewards) for group in groups),
        "entropy": -fmean(logprob for one in completions for logprob in one.sampler_logprobs),
        **_answer_metrics(groups),
    }


def num_tokens(groups: Sequence[RolloutGroup]) -> int:
    """Of the groups' prompts, each once, and of their completions."""
    return sum(len(group.prompt.token_ids) + sum(len(one.token_ids) for one in group.completions) for group in groups)


def _answer_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """The metrics that each task has of its readable answers, such as their number of boxes."""
    answers: dict[str, list[Answer]] = {}
    for group in groups:
        held = answers.setdefault(group.sample.task, [])
        held += [one.reading.answer for one in group.reports if not isinstance(one.reading.answer, Unreadable)]
    found: dict[str, float] = {}
    for task, held in answers.items():
        if held and (metrics := TASKS[task].rollout_metrics) is not None:
            found |= metrics.compute(held)
    return found


def _rewards_by_origin(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    origins = sorted({group.sample.origin for group in groups} - {""})
    return {
        f"reward@{origin}": fmean(value for group in groups if group.sample.origin == origin for value in group.rewards)
        for origin in origins
    }


def most_different(groups: Sequence[RolloutGroup]) -> RolloutGroup:
    """The group whose rewards differ most: the one that a step is shown by."""
    return max(groups, key=lambda one: max(one.rewards) - min(one.rewards))


def from_worst_to_best(group: RolloutGroup) -> list[int]:
    """The places of a group's completions by reward; equal ones in their order."""
    return sorted(range(len(group.completions)), key=lambda i: (group.rewards[i], i))


def best_and_worst(groups: Sequence[RolloutGroup], number: int, *, scale_by_std: bool) -> dict[str, Any]:
    """The group that differed most, as a log record: its best and its worst completion.

    ``boxes``: [x1, y1, x2, y2, confidence] of each box that was read, in pixels of the picture as it was seen.
    """
    group = most_different(groups)
    order = from_worst_to_best(group)
    advantages = group_advantages(group.rewards, scale_by_std=scale_by_std).tolist()

    def shown(i: int) -> Mapping[str, Any]:
        report = group.reports[i]
        return {
            "reward": report.total,
            "advantage": round(advantages[i], 6),
            "parts": dict(report.parts),
            "text": group.completions[i].text,
            "boxes": _boxes(group.sample.task, report.reading.answer),
        }

    return {
        "step": number,
        "sample": group.sample.id,
        **({"view": asdict(group.sample.view)} if group.sample.view is not None else {}),
        "prompt": group.prompt.text,
        "rewards": list(group.rewards),
        "best": shown(order[-1]),
        "worst": shown(order[0]),
    }


def _boxes(task: str, answer: Answer) -> list[list[float]]:
    found = TASKS[task].answer_boxes(answer)
    return [[round(value, 2) for value in (*one.box.xyxy, one.confidence)] for one in found]
