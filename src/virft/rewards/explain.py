"""A reward in words: what ``virft explain`` prints about one completion."""

from __future__ import annotations

from virft.geometry.boxes import intersection_over_union
from virft.rewards.combine import RewardRule, reward
from virft.rewards.detection import iou_threshold_at, match_best, match_like_paper
from virft.types import Box, Detections, InvalidElement, Label, Reading, RewardContext, Target, TaskName, Unreadable


def explain_reward(
    rule: RewardRule, task: TaskName, reading: Reading, target: Target, context: RewardContext | None = None
) -> str:
    """Plain text: each part with its weight, then what was read and how it was matched.

    Boxes are in pixels of the original image; predictions stand in text order, targets count from 1.

    >>> reading = Reading(text="", well_formed=True, answer=Label(text="a cat"))
    >>> print(explain_reward(RewardRule(), TaskName.CLASSIFICATION, reading, Label(text="cat")))
    classification, robust
    part            value   weight    total
    label           0.000    1.000    0.000
    format          1.000    1.000    1.000
    total                             1.000
    answer 'a cat', target 'cat'
    """
    context = context or RewardContext()
    report = reward(rule, task, reading, target, context)
    lines = [f"{task}, {rule.preset}", f"{'part':<12}{'value':>9}{'weight':>9}{'total':>9}"]
    for name, value in report.parts.items():
        weight = rule.weight(name)
        lines.append(f"{name:<12}{value:>9.3f}{weight:>9.3f}{weight * value:>9.3f}")
    lines.append(f"{'total':<12}{report.total:>27.3f}")
    answer = reading.answer
    if isinstance(answer, Unreadable):
        lines.append(f"unreadable: {answer.reason}" + (f": {answer.piece!r}" if answer.piece else ""))
    elif isinstance(answer, Label) and isinstance(target, Label):
        names = " or ".join(repr(name) for name in (target.text, *target.aliases))
        lines.append(f"answer {answer.text!r}, target {names}")
    elif isinstance(answer, Box) and isinstance(target, Box):
        overlap = intersection_over_union(answer.xyxy, target.xyxy)
        lines.append(f"box {_corners(answer)}, target {_corners(target)}, IoU {overlap:.3f}")
    elif isinstance(answer, Detections) and isinstance(target, Detections):
        threshold = iou_threshold_at(rule.iou_threshold, rule.iou_threshold_end, context)
        lines += _explain_boxes(rule, answer, target, threshold)
    return "\n".join(lines)


def _explain_boxes(rule: RewardRule, answer: Detections, target: Detections, threshold: float) -> list[str]:
    if rule.preset == "paper":
        matching = match_like_paper(answer, target, iou_threshold=threshold)
    else:
        matching = match_best(
            answer,
            target,
            iou_threshold=threshold,
            iou_weight=rule.weight("iou"),
            confidence_weight=rule.weight("confidence"),
        )
    lines = [f"{answer.num_predicted} predicted, {len(target.items)} to find, hit above IoU {threshold:.3g}"]
    for index, item in enumerate(answer.items):
        line = f"{index + 1:>3}  {_corners(item.box):<32}  confidence {item.confidence:<5.3g}"
        found = matching.targets[index]
        if index in matching.dropped:
            lines.append(f"{line}  an exact duplicate, dropped")
        elif found is not None:
            lines.append(f"{line}  target {found + 1}, IoU {matching.ious[index]:.3f}, hit")
        else:
            near = max((intersection_over_union(item.box.xyxy, other.box.xyxy) for other in target.items), default=0.0)
            lines.append(f"{line}  no target left, best IoU {near:.3f}, miss")
    lines += [_explain_invalid(element) for element in answer.invalid]
    taken = set(matching.targets)
    lines += [
        f"target {index + 1} {_corners(item.box)} not found"
        for index, item in enumerate(target.items)
        if index not in taken
    ]
    if not answer.num_predicted:
        lines.append("the answer says: no objects")
    if answer.num_clipped:
        lines.append(f"{answer.num_clipped} clipped to the image")
    return lines


def _explain_invalid(element: InvalidElement) -> str:
    return f"invalid: {element.reason}: {element.piece!r}"


def _corners(box: Box) -> str:
    return "[" + ", ".join(f"{value:.1f}" for value in box.xyxy) + "]"
