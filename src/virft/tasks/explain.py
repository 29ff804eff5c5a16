"""Text about the reward of one completion, as ``virft explain`` prints it."""

from __future__ import annotations

from virft.geometry.boxes import reaches
from virft.rewards.masks import MIN_BOX_IOU
from virft.tasks import TASKS
from virft.tasks.box_answers import format_box
from virft.tasks.reward import MASK, RewardRule, compute_reward
from virft.types import Reading, RewardContext, SegmentedBox, Target, Unreadable


def explain_reward(
    rule: RewardRule, task: str, reading: Reading, target: Target, context: RewardContext | None = None
) -> str:
    """Return plain text: each part with its weight, then the parsed answer and how it matches the target.

    Boxes are in pixels of the original image; predicted boxes are in text order, targets count from 1.

    >>> from virft.types import Label
    >>> reading = Reading(text="", well_formed=True, answer=Label(text="a cat"))
    >>> print(explain_reward(RewardRule(), "classification", reading, Label(text="cat")))
    classification, robust
    part            value   weight    total
    label           0.000    1.000    0.000
    format          1.000    1.000    1.000
    total                             1.000
    answer 'a cat', target 'cat'
    """
    context = context or RewardContext()
    report = compute_reward(rule, task, reading, target, context)
    lines = [f"{task}, {rule.preset}", f"{'part':<12}{'value':>9}{'weight':>9}{'total':>9}"]
    for name, value in report.parts.items():
        weight = rule.weight(name)
        lines.append(f"{name:<12}{value:>9.3f}{weight:>9.3f}{weight * value:>9.3f}")
    lines.append(f"{'total':<12}{report.total:>27.3f}")
    answer = reading.answer
    if isinstance(answer, Unreadable):
        lines.append(f"unreadable: {answer.reason}" + (f": {answer.piece!r}" if answer.piece else ""))
    elif isinstance(answer, TASKS[task].target_type):
        lines += TASKS[task].explain(answer, target, context, rule)
        if MASK in report.parts and context.segmented is not None:
            lines += [_mask_line(one, rule) for one in context.segmented.boxes]
    return "\n".join(lines)


def _mask_line(one: SegmentedBox, rule: RewardRule) -> str:
    is_rewarded = rule.preset == "paper" or reaches(one.pair.iou, MIN_BOX_IOU)
    reason = "" if is_rewarded else f", not rewarded: the IoU of the boxes is below {MIN_BOX_IOU:g}"
    return f"masks of {format_box(one.pair.box)} and of target {one.pair.target + 1}: IoU {one.iou:.3f}{reason}"
