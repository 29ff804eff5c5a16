"""Describe targets and predictions as text: in full for alternative texts, in short for captions."""

from __future__ import annotations

from virft.types import Answer, Box, Detections, Label, Target, Unreadable


def describe_target(target: Target) -> str:
    """Describe the ground truth, boxes in whole pixels.

    >>> describe_target(Detections()), describe_target(Label(text="fox", aliases=("vulpes",)))
    ('no objects', 'fox or vulpes')
    """
    if isinstance(target, Label):
        return " or ".join((target.text, *target.aliases))
    boxes = [target] if isinstance(target, Box) else [item.box for item in target.items]
    return f"{_count_boxes(len(boxes))}: {'; '.join(map(format_box, boxes))}" if boxes else "no objects"


def summarise_target(target: Target) -> str:
    """Describe the ground truth without coordinates, for a caption below the drawn boxes.

    >>> summarise_target(Box(x1=0, y1=0, x2=2, y2=2)), summarise_target(Detections())
    ('1 box', 'no objects')
    """
    if isinstance(target, Label):
        return describe_target(target)
    number = 1 if isinstance(target, Box) else len(target.items)
    return _count_boxes(number) if number else "no objects"


def describe_answer(answer: Answer) -> str:
    """Describe a parsed answer, boxes in whole pixels with their confidence.

    >>> from virft.types import Detection
    >>> describe_answer(Detections(items=(Detection(box=Box(x1=1, y1=2, x2=30, y2=40.4), confidence=0.9),)))
    '1 box: 1, 2 to 30, 40 (confidence 0.90)'
    """
    if isinstance(answer, Label):
        return answer.text
    if isinstance(answer, Box):
        return f"1 box: {format_box(answer)}"
    if isinstance(answer, Unreadable):
        return f"unreadable: {answer.reason}"
    boxes = [f"{format_box(item.box)} (confidence {item.confidence:.2f})" for item in answer.items]
    invalid = [f"invalid: {one.reason}" for one in answer.invalid]
    if not boxes and not invalid:
        return "no objects"
    return (f"{_count_boxes(len(boxes))}: " if boxes else "") + "; ".join([*boxes, *invalid])


def summarise_answer(answer: Answer) -> str:
    """Describe a parsed answer without coordinates, for a caption below the drawn boxes.

    >>> summarise_answer(Detections()), summarise_answer(Unreadable(reason="no answer block"))
    ('no objects', 'unreadable: no answer block')
    """
    if isinstance(answer, Box):
        return "1 box"
    if not isinstance(answer, Detections):
        return describe_answer(answer)
    if not answer.items and not answer.invalid:
        return "no objects"
    parts = []
    if answer.items:
        parts.append(_count_boxes(len(answer.items)))
    if answer.invalid:
        parts.append(f"{len(answer.invalid)} invalid")
    return ", ".join(parts)


def format_box(box: Box) -> str:
    """Format the corners of a box in whole pixels."""
    return f"{box.x1:.0f}, {box.y1:.0f} to {box.x2:.0f}, {box.y2:.0f}"


def _count_boxes(number: int) -> str:
    return "1 box" if number == 1 else f"{number} boxes"
