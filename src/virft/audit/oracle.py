"""Answers that know what is right and say more or less of it: what a cheat's pay is held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.types import Box, Detection, Detections, Label, Sample, Target

HALF_RIGHT = "half right"
"""What no cheat may be paid more than: every other box missing and the rest at IoU 0.7 with confidence 0.7; every other
name; a box at IoU 0.5."""
_WRONG_NAME = "something else"


def honest_texts(samples: Sequence[Sample], *, thinking: bool) -> Iterator[dict[str, str]]:
    """Of each sample in order: kind of answer -> its text, with boxes relative to 1000."""
    number = 0
    for index, sample in enumerate(samples):
        target = sample.target
        found: dict[str, Target] = {"right": target}
        if isinstance(target, Detections):
            boxes = [item.box for item in target.items]
            found["right"] = _detections(boxes, confidence=1.0)
            found["boxes at IoU 0.7"] = _detections([shrunk(box, 0.7) for box in boxes], confidence=0.7)
            kept = [shrunk(box, 0.7) for i, box in enumerate(boxes, number) if i % 2 == 0]
            found[HALF_RIGHT] = _detections(kept, confidence=0.7)
            number += len(boxes)
        elif isinstance(target, Label):
            found["right"] = Label(text=target.text)
            found[HALF_RIGHT] = Label(text=_WRONG_NAME if index % 2 else target.text)
        else:
            found["box at IoU 0.7"] = shrunk(target, 0.7)
            found[HALF_RIGHT] = shrunk(target, 0.5)
        yield {name: _written(sample, answer, thinking) for name, answer in found.items()}


def shrunk(box: Box, iou: float) -> Box:
    """A smaller box with the same middle; their IoU is ``iou``.

    >>> shrunk(Box(x1=0, y1=0, x2=20, y2=40), 0.25)
    Box(x1=5.0, y1=10.0, x2=15.0, y2=30.0)
    """
    side = math.sqrt(iou)
    dx, dy = ((1 - side) * (high - low) / 2 for low, high in ((box.x1, box.x2), (box.y1, box.y2)))
    return Box(x1=box.x1 + dx, y1=box.y1 + dy, x2=box.x2 - dx, y2=box.y2 - dy)


def _detections(boxes: Sequence[Box], *, confidence: float) -> Detections:
    return Detections(items=tuple(Detection(box=box, confidence=confidence) for box in boxes))


def _written(sample: Sample, answer: Target, thinking: bool) -> str:
    return TASKS[sample.task].render_for(
        replace(sample, target=answer),
        space=BoxSpace.RELATIVE_1000,
        resized=sample.target_size,
        thinking_text="I look." if thinking else None,
    )
