"""One reward of a completion: the parts of its task under a preset, weighted and added."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field

from virft.errors import ConfigError, NonFiniteReward, RewardFailed, VirftError
from virft.rewards.extra import ExtraReward, name_of_extra, own_lines, place_of_extra
from virft.rewards.format import format_reward, paper_format_reward
from virft.rewards.length import overlong_reward
from virft.rewards.masks import mask_reward, paper_mask_reward
from virft.rewards.options import PRESETS, Preset
from virft.tasks import TASKS
from virft.tasks.task import FORMAT, FORMAT_BOUNDS
from virft.types import Reading, RewardContext, RewardReport, Target

OVERLONG = "overlong"
"""A part of every preset and task, in [-1, 0], if ``overlong_tokens`` is above 0."""
MASK = "mask"
"""A part of every preset if ``uses_masks`` is set, for samples with a mask (``virft.rewards.masks``)."""
MASK_BOUNDS = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardRule:
    """Settings of a reward. ``ConfigError`` if one of them is invalid.

    >>> RewardRule(weights={"fromat": 2})
    Traceback (most recent call last):
    virft.errors.ConfigError: weights: fromat is no part of the robust reward; did you mean format?
    """

    preset: Preset = "robust"
    """Set of formulas, see ``Task.rewards``."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Part or extra reward -> weight, 0 or more. Those that are not named have weight 1."""
    iou_threshold: float = 0.5
    """A predicted box is a hit from this IoU with its target on (preset ``paper``: above it)."""
    iou_threshold_end: float | None = None
    """The threshold changes linearly over the run to this value at the last step. None: it does not change."""
    check_labels: bool = False
    """Count a detected box whose own label names another class than ``RewardContext.query`` as invalid."""
    overlong_tokens: int = 0
    """Above 0, the part ``overlong`` (``virft.rewards.length``) is added where tokens are counted."""
    uses_masks: bool = False
    """Add the part ``mask`` where ``RewardContext.segmented`` is known. Source: SAM-R1 (arXiv 2505.22596)."""
    extra: tuple[ExtraReward, ...] = ()
    """The user's own reward functions."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ConfigError(f"preset: {self.preset!r} is not known; expected {' or '.join(PRESETS)}")
        parts = {name for task in TASKS.values() for name in task.reward_bounds(self.preset)}
        parts |= {OVERLONG} if self.overlong_tokens else set()
        parts |= {MASK} if self.uses_masks else set()
        extras = [name_of_extra(function) for function in self.extra]
        for name in extras:
            if name in parts or extras.count(name) > 1:
                raise ConfigError(f"extra: two rewards are named {name}; rename the function")
        known = sorted(parts.union(extras))
        for name, weight in self.weights.items():
            if name == MASK and name not in known:
                raise ConfigError("weights: mask needs reward.segmenter, which is not set")
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
        """Return the weight of a part in the total."""
        return self.weights.get(part, 1.0)


def compute_reward(
    rule: RewardRule, task: str, reading: Reading, target: Target, context: RewardContext | None = None
) -> RewardReport:
    """Return the parts of the rule's preset for this task, the extra rewards, and their weighted sum.

    A part without bounds or out of them is a bug and raises ``AssertionError``. If an extra reward raises an exception,
    ``RewardFailed`` has the user's lines; one that is no finite number in [-1, 1] raises ``VirftError``.

    >>> from virft.types import Label
    >>> reading = Reading(text="", well_formed=True, answer=Label(text="Cat"))
    >>> report = compute_reward(RewardRule(weights={"format": 0.5}), "classification", reading, Label(text="cat"))
    >>> report.total, report.parts
    (1.5, {'label': 1.0, 'format': 1.0})
    """
    context = context or RewardContext()
    row = TASKS[task]
    row.check_target(target)
    own = row.rewards[rule.preset]
    parts = own.compute(reading, target, context, rule)
    if parts.keys() != own.bounds.keys():
        raise AssertionError(f"{rule.preset} {task}: parts are {', '.join(parts)}; expected {', '.join(own.bounds)}")
    parts[FORMAT] = (format_reward if rule.preset == "robust" else paper_format_reward)(reading, target, context)
    for name, (low, high) in (*own.bounds.items(), (FORMAT, FORMAT_BOUNDS)):
        if not low <= parts[name] <= high:
            raise AssertionError(f"{rule.preset} {task}: {name} is {parts[name]}, outside [{low}, {high}]: {reading!r}")
    if rule.overlong_tokens and context.num_tokens is not None and context.max_tokens is not None:
        parts[OVERLONG] = overlong_reward(
            context.num_tokens, max_tokens=context.max_tokens, overlong_tokens=rule.overlong_tokens
        )
    if rule.uses_masks and context.segmented is not None:
        parts[MASK] = (mask_reward if rule.preset == "robust" else paper_mask_reward)(context.segmented)
        assert MASK_BOUNDS[0] <= parts[MASK] <= MASK_BOUNDS[1], f"{MASK} is {parts[MASK]}, outside {MASK_BOUNDS}"
    for function in rule.extra:
        parts[name_of_extra(function)] = _extra(function, reading, target, context)
    total = math.fsum(rule.weight(name) * value for name, value in parts.items())
    segmented = context.segmented.boxes if MASK in parts and context.segmented is not None else ()
    return RewardReport(total=total, parts=parts, reading=reading, masks=tuple(one.rle for one in segmented))


def _extra(function: ExtraReward, reading: Reading, target: Target, context: RewardContext) -> float:
    try:
        value: object = function(reading, target, context)
    except Exception as error:
        message = f"reward.extra: {place_of_extra(function)} raised {type(error).__name__}: {error}"
        raise RewardFailed(message, lines=own_lines(error, function)) from error
    if not isinstance(value, numbers.Real) or not abs(float(value)) <= 1.0:
        is_number = isinstance(value, numbers.Real) and not math.isfinite(float(value))
        raise (NonFiniteReward if is_number else VirftError)(
            f"reward.extra: {place_of_extra(function)} returned {value!r}; expected a finite number in [-1, 1]"
        )
    return float(value)
