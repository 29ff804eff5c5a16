"""One reward of a completion: the parts of a preset, weighted and added."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from virft.errors import ConfigError, NonFiniteReward, VirftError
from virft.rewards.detection import detection_rewards, paper_detection_rewards
from virft.rewards.format import format_reward, paper_format_reward
from virft.rewards.grounding import giou_reward, paper_giou_reward
from virft.rewards.label import label_reward, paper_label_reward
from virft.rewards.length import overlong_reward
from virft.types import Box, Detections, Label, Reading, RewardContext, RewardReport, Target, TaskName

Preset = Literal["robust", "paper"]
ExtraReward = Callable[[Reading, Target, RewardContext], float]
"""A reward of the user's own, in [-1, 1]. Its name is the function's name."""

PARTS: dict[str, dict[TaskName, dict[str, tuple[float, float]]]] = {
    "robust": {
        TaskName.DETECTION: {"iou": (0.0, 1.0), "confidence": (-1.0, 1.0), "format": (0.0, 1.0)},
        TaskName.CLASSIFICATION: {"label": (0.0, 1.0), "format": (0.0, 1.0)},
        TaskName.GROUNDING: {"giou": (0.0, 1.0), "format": (0.0, 1.0)},
    },
    "paper": {
        TaskName.DETECTION: {"iou": (0.0, 1.0), "confidence": (0.0, 1.0), "format": (0.0, 1.0)},
        TaskName.CLASSIFICATION: {"label": (0.0, 1.0), "format": (0.0, 1.0)},
        TaskName.GROUNDING: {"giou": (0.0, 2.0), "format": (0.0, 1.0)},
    },
}
"""Preset -> task -> part -> its bounds. Every part weighs 1 unless a rule says otherwise."""

OVERLONG = "overlong"
"""A part of every preset and task, in [-1, 0], where a rule asks for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardRule:
    """What a completion is paid for.

    ``weights``: part or extra -> weight, 0 or more; those not named weigh 1. ``iou_threshold``: a box
    counts as found above it; moves in a straight line to ``iou_threshold_end`` over the run.
    ``overlong_tokens``: above 0, the part ``overlong`` (``virft.rewards.length``) is added where tokens are counted.
    ``extra``: rewards of the user's own.

    >>> RewardRule(weights={"fromat": 2})
    Traceback (most recent call last):
    virft.errors.ConfigError: weights: fromat is no part of the robust reward; did you mean format?
    """

    preset: Preset = "robust"
    weights: Mapping[str, float] = field(default_factory=dict)
    iou_threshold: float = 0.5
    iou_threshold_end: float | None = None
    overlong_tokens: int = 0
    extra: tuple[ExtraReward, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PARTS:
            raise ConfigError(f"preset: {self.preset!r} is not known; expected {' or '.join(PARTS)}")
        parts = {name for task_parts in PARTS[self.preset].values() for name in task_parts}
        parts |= {OVERLONG} if self.overlong_tokens else set()
        extras = [name_of_extra(function) for function in self.extra]
        for name in extras:
            if name in parts or extras.count(name) > 1:
                raise ConfigError(f"extra: two rewards are named {name}; rename the function")
        known = sorted(parts.union(extras))
        for name, weight in self.weights.items():
            if name not in known:
                guess = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {guess[0]}?" if guess else f"expected one of {', '.join(known)}"
                raise ConfigError(f"weights: {name} is no part of the {self.preset} reward; {hint}")
            if not (math.isfinite(weight) and weight >= 0.0):
                raise ConfigError(f"weights: {name} = {weight}; expected a finite number, 0 or more")
        for setting, threshold in (
            ("iou_threshold", self.iou_threshold),
            ("iou_threshold_end", self.iou_threshold_end),
        ):
            if threshold is not None and not 0.0 <= threshold <= 1.0:
                raise ConfigError(f"{setting} = {threshold}; expected a number from 0 to 1")

    def weight(self, part: str) -> float:
        """Weight of a part in the total."""
        return self.weights.get(part, 1.0)


def reward(
    rule: RewardRule, task: TaskName, reading: Reading, target: Target, context: RewardContext | None = None
) -> RewardReport:
    """The parts of the rule's preset for this task, the extras, and their weighted sum.

    A part out of its bounds is our bug and raises ``AssertionError``; an extra that is no finite
    number in [-1, 1] raises ``VirftError`` with the name of its function.

    >>> reading = Reading(text="", well_formed=True, answer=Label(text="Cat"))
    >>> report = reward(RewardRule(weights={"format": 0.5}), TaskName.CLASSIFICATION, reading, Label(text="cat"))
    >>> report.total, report.parts
    (1.5, {'label': 1.0, 'format': 1.0})
    """
    context = context or RewardContext()
    parts = _parts(rule, task, reading, target, context)
    for name, (low, high) in PARTS[rule.preset][task].items():
        if not low <= parts[name] <= high:
            raise AssertionError(f"{rule.preset} {task}: {name} is {parts[name]}, outside [{low}, {high}]: {reading!r}")
    if rule.overlong_tokens and context.num_tokens is not None and context.max_tokens is not None:
        parts[OVERLONG] = overlong_reward(
            context.num_tokens, max_tokens=context.max_tokens, overlong_tokens=rule.overlong_tokens
        )
    for function in rule.extra:
        parts[name_of_extra(function)] = _extra(function, reading, target, context)
    total = math.fsum(rule.weight(name) * value for name, value in parts.items())
    return RewardReport(total=total, parts=parts, reading=reading)


def name_of_extra(function: ExtraReward) -> str:
    """The name an extra reward goes by in weights and logs.

    >>> def shortness(reading, target, context): return 0.0
    >>> name_of_extra(shortness)
    'shortness'
    """
    return getattr(function, "__name__", type(function).__name__)


def _parts(
    rule: RewardRule, task: TaskName, reading: Reading, target: Target, context: RewardContext
) -> dict[str, float]:
    robust = rule.preset == "robust"
    # A target of another task's type is our bug.
    if task is TaskName.DETECTION and isinstance(target, Detections):
        parts = _detection_parts(rule, reading, target, context)
    elif task is TaskName.CLASSIFICATION and isinstance(target, Label):
        parts = {"label": (label_reward if robust else paper_label_reward)(reading, target, context)}
    elif task is TaskName.GROUNDING and isinstance(target, Box):
        parts = {"giou": (giou_reward if robust else paper_giou_reward)(reading, target, context)}
    else:
        raise TypeError(f"a {type(target).__name__} is no target of {task}")
    parts["format"] = (format_reward if robust else paper_format_reward)(reading, target, context)
    return parts


def _detection_parts(
    rule: RewardRule, reading: Reading, target: Detections, context: RewardContext
) -> dict[str, float]:
    if rule.preset == "paper":
        return paper_detection_rewards(
            reading,
            target,
            context,
            iou_threshold=rule.iou_threshold,
            iou_threshold_end=rule.iou_threshold_end,
        )
    return detection_rewards(
        reading,
        target,
        context,
        iou_threshold=rule.iou_threshold,
        iou_threshold_end=rule.iou_threshold_end,
        iou_weight=rule.weight("iou"),
        confidence_weight=rule.weight("confidence"),
    )


def _extra(function: ExtraReward, reading: Reading, target: Target, context: RewardContext) -> float:
    value: object = function(reading, target, context)
    if not isinstance(value, numbers.Real) or not abs(float(value)) <= 1.0:
        is_number = isinstance(value, numbers.Real) and not math.isfinite(float(value))
        raise (NonFiniteReward if is_number else VirftError)(
            f"reward {name_of_extra(function)} (of {function.__module__}) returned {value!r}; "
            "expected a finite number in [-1, 1]"
        )
    return float(value)
