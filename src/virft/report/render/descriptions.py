"""Targets and answers in words, for those who do not see the picture, and under it."""

from __future__ import annotations

from virft.types import Answer, Box, Detections, Label, Target, Unreadable


def target_in_full(target: Target) -> str:
    """What is right, boxes in whole pixels.

    >>> target_in_full(Detections()), target_in_full(Label(text="fox", aliases=("vulpes",)))
    ('nothing to find', 'fox or vulpes')
    """
    if isinstance(target, Label):
        return " or ".join((target.text, *target.aliases))
    boxes = [target] if isinstance(target, Box) else [item.box for item in target.items]
    return f"{_count(len(boxes))}: {'; '.join(map(corners, boxes))}" if boxes else "nothing to find"


def target_in_short(target: Target) -> str:
    """What is right in a line under a picture that shows where.

    >>> target_in_short(Box(x1=0, y1=0, x2=2, y2=2)), target_in_short(Detections())
    ('1 box to find', 'nothing to find')
    """
    if isinstance(target, Label):
        return target_in_full(target)
    number = 1 if isinstance(target, Box) else len(target.items)
    return f"{_count(number)} to find" if number else "nothing to find"


def in_full(answer: Answer) -> str:
    """Everything that an answer says, boxes in whole pixels.

    >>> from virft.types import Detection
    >>> in_full(Detections(items=(Detection(box=Box(x1=1, y1=2, x2=30, y2=40.4), confidence=0.9),)))
    '1 box: 1, 2 to 30, 40 (confidence 0.90)'
    """
    if isinstance(answer, Label):
        return answer.text
    if isinstance(answer, Box):
        return f"1 box: {corners(answer)}"
    if isinstance(answer, Unreadable):
        return f"unreadable: {answer.reason}"
    boxes = [f"{corners(item.box)} (confidence {item.confidence:.2f})" for item in answer.items]
    broken = [f"no box: {one.reason}" for one in answer.invalid]
    if not boxes and not broken:
        return "no objects"
    return (f"{_count(len(boxes))}: " if boxes else "") + "; ".join([*boxes, *broken])


def in_short(answer: Answer) -> str:
    """An answer in a line under its picture, which shows where the boxes are.

    >>> in_short(Detections()), in_short(Unreadable(reason="no answer block"))
    ('no objects', 'unreadable: no answer block')
    """
    if isinstance(answer, Box):
        return "1 box"
    if not isinstance(answer, Detections):
        return in_full(answer)
    if not answer.items and not answer.invalid:
        return "no objects"
    parts = []
    if answer.items:
        parts.append(_count(len(answer.items)))
    if answer.invalid:
        parts.append(f"{len(answer.invalid)} invalid")
    return ", ".join(parts)


def corners(box: Box) -> str:
    """A box in whole pixels."""
    return f"{box.x1:.0f}, {box.y1:.0f} to {box.x2:.0f}, {box.y2:.0f}"


def _count(number: int) -> str:
    return "1 box" if number == 1 else f"{number} boxes"
