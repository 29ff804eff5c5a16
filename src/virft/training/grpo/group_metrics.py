"""Metrics of a step's groups, and the group that is logged as its example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from virft.tasks import TASKS
from virft.tasks.common_answer import common_answer_metrics
from virft.text.answers import is_at_most_1
from virft.training.grpo.advantages import group_advantages, has_nonzero_std
from virft.types import Answer, RolloutGroup, Unreadable


def group_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over the completions of a step: reward and its parts, length, failures, entropy, boxes.

    With several datasets also ``reward@NAME`` of each dataset in the step. ``nonzero_std_frac`` is the fraction of
    groups whose rewards differ. ``entropy`` is that of the sampler in nats per token, estimated by its own log-probs.
    For ``common_answer_frac`` and ``common_target_frac`` see ``common_answer_metrics``.
    """
    reports = [report for group in groups for report in group.reports]
    completions = [completion for group in groups for completion in group.completions]
    names = sorted({name for report in reports for name in report.parts})
    # A part that only some tasks have is averaged over their completions, not over all.
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
        **_at_most_1(groups),
        "truncated_frac": fmean(one.truncated for one in completions),
        "nonzero_std_frac": fmean(has_nonzero_std(group.rewards) for group in groups),
        # E[-log p(token)] over tokens that were drawn from p
        "entropy": -fmean(logprob for one in completions for logprob in one.sampler_logprobs),
        **_answer_metrics(groups),
        # one completion of each prompt: those of one group are about the same image
        **common_answer_metrics([(group.sample, group.reports[0].reading.answer) for group in groups]),
    }


def _at_most_1(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """``at_most_1_frac`` of the completions about boxes, if there are any."""
    answers = [
        one.reading.answer for group in groups if TASKS[group.sample.task].boxes is not None for one in group.reports
    ]
    return {"at_most_1_frac": fmean(map(is_at_most_1, answers))} if answers else {}


def num_tokens(groups: Sequence[RolloutGroup]) -> int:
    """Tokens that the step processes: each prompt once, and all completions, with their tool turns."""
    completions = [one for group in groups for one in group.completions]
    tool = sum(len(one.zoom.tool_ids) for one in completions if one.zoom is not None)
    return sum(len(group.prompt.token_ids) for group in groups) + sum(len(one.token_ids) for one in completions) + tool


def _answer_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Metrics of the readable answers of each task (``Task.rollout_metrics``), such as their number of boxes."""
    answers: dict[str, list[Answer]] = {}
    for group in groups:
        readable = answers.setdefault(group.sample.task, [])
        readable += [one.reading.answer for one in group.reports if not isinstance(one.reading.answer, Unreadable)]
    found: dict[str, float] = {}
    for task, readable in answers.items():
        if readable and (metrics := TASKS[task].rollout_metrics) is not None:
            found |= metrics.compute(readable)
    return found


def _rewards_by_origin(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    origins = sorted({group.sample.origin for group in groups} - {""})
    return {
        f"reward@{origin}": fmean(value for group in groups if group.sample.origin == origin for value in group.rewards)
        for origin in origins
    }


def widest_reward_range(groups: Sequence[RolloutGroup]) -> RolloutGroup:
    """The group with the largest difference between its highest and its lowest reward: the example of a step."""
    return max(groups, key=lambda one: max(one.rewards) - min(one.rewards))


def from_worst_to_best(group: RolloutGroup) -> list[int]:
    """Indices of a group's completions by increasing reward; equal rewards in their own order."""
    return sorted(range(len(group.completions)), key=lambda i: (group.rewards[i], i))


def rollout_record(
    groups: Sequence[RolloutGroup],
    number: int,
    *,
    scale_by_std: bool,
    advantages: Sequence[Sequence[float]] | None = None,
    has_staleness: bool = False,
) -> dict[str, Any]:
    """A record of ``rollouts.jsonl``: best and worst completion of the group with the widest reward range.

    ``advantages``: of the completions of each group; None: ``group_advantages``. ``has_staleness``: record the
    number of steps since the weights that sampled the group.
    ``boxes`` are [x1, y1, x2, y2, confidence] of each parsed box, in pixels of the image that the model saw; boxes of
    several classes have their label as a sixth element. ``masks``: COCO's compressed run lengths of the masks that were
    compared with those of the target, on the upright original image. ``zoom``, if a completion has two turns: text of
    the first, and the enlarged region [x1, y1, x2, y2].
    """
    group = widest_reward_range(groups)
    order = from_worst_to_best(group)
    if advantages is None:
        own: Sequence[float] = group_advantages(group.rewards, scale_by_std=scale_by_std).tolist()
    else:
        own = next(values for one, values in zip(groups, advantages, strict=True) if one is group)

    def completion_record(i: int) -> Mapping[str, Any]:
        report = group.reports[i]
        zoom = group.completions[i].zoom
        return {
            "reward": report.total,
            "advantage": round(own[i], 6),
            "parts": dict(report.parts),
            **({} if zoom is None else {"zoom": {"text": zoom.text, "region": list(zoom.region.xyxy)}}),
            "text": group.completions[i].text,
            "boxes": _boxes(group.sample.task, report.reading.answer),
            **({"masks": list(report.masks)} if report.masks else {}),
        }

    return {
        "step": number,
        "sample": group.sample.id,
        **({"augmentation": asdict(group.sample.augmentation)} if group.sample.augmentation is not None else {}),
        "prompt": group.prompt.text,
        **({"staleness": number - group.policy_step} if has_staleness else {}),
        "rewards": list(group.rewards),
        "best": completion_record(order[-1]),
        "worst": completion_record(order[0]),
    }


def _boxes(task: str, answer: Answer) -> list[list[float | str]]:
    found = TASKS[task].answer_boxes(answer)
    return [
        [*(round(value, 2) for value in (*one.box.xyxy, one.confidence)), *([] if one.label is None else [one.label])]
        for one in found
    ]
