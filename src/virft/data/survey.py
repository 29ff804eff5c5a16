"""What a data set holds, in one pass: counts, sizes of boxes, and whether every picture can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from virft.data.store import Store
from virft.types import Box, Detections, Label, Sample, TaskName

SMALL, LARGE = 32.0**2, 96.0**2
"""Areas in pixels that bound small and large boxes. Source: COCO's evaluation."""


@dataclass(kw_only=True)
class Row:
    """Questions about one class (detection), label (classification), or all of them (grounding)."""

    questions: int = 0
    absent: int = 0
    boxes: int = 0
    by_size: Counter[str] = field(default_factory=Counter)


def survey(store: Store, *, progress: Callable[[int], None] | None = None) -> dict[tuple[TaskName, str], Row]:
    """Rows by task and class. Raises ``DataError`` about the first sample or picture that cannot be used."""
    store.check(decode=True)
    rows: dict[tuple[TaskName, str], Row] = {}
    for number, sample in enumerate(store, start=1):
        _count(rows.setdefault((sample.task, _class_of(sample)), Row()), sample)
        if progress is not None:
            progress(number)
    return dict(sorted(rows.items()))


def _count(row: Row, sample: Sample) -> None:
    row.questions += 1
    boxes: list[Box] = []
    if isinstance(sample.target, Detections):
        boxes = [item.box for item in sample.target.items]
        row.absent += not boxes
    elif isinstance(sample.target, Box):
        boxes = [sample.target]
    row.boxes += len(boxes)
    row.by_size.update("small" if box.area < SMALL else "large" if box.area > LARGE else "medium" for box in boxes)


def _class_of(sample: Sample) -> str:
    if isinstance(sample.target, Label):
        return sample.target.text
    return sample.query if isinstance(sample.target, Detections) else "(all expressions)"


def survey_text(rows: dict[tuple[TaskName, str], Row]) -> str:
    """The rows as a table in plain text."""
    lines = [["task", "class", "questions", "absent", "boxes", "small", "medium", "large"]]
    for (task, name), row in rows.items():
        numbers = (row.questions, row.absent, row.boxes, *(row.by_size[size] for size in ("small", "medium", "large")))
        lines.append([task.value, name, *map(str, numbers)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[2:], widths[2:], strict=True))
        for line in lines
    )
