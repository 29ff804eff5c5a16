"""Statistics of a dataset: numbers of questions, of boxes and of box sizes, by task and class."""

from __future__ import annotations

from virft.geometry.boxes import size_of
from virft.types import Detections, Label, Sample

Counts = dict[str, dict[str, dict[str, int]]]
"""Task -> class -> key -> number. Keys: questions; for tasks with boxes also boxes, small, medium, large; for detection
also absent, the number of questions about an absent class."""


def count_sample(sample: Sample, counts: Counts) -> None:
    """Add a sample to ``counts``. Classification counts by label; grounding expressions count as one class, "all"."""
    target = sample.target
    # Each referring expression is different, so counts by expression would all be 1.
    name = target.text if isinstance(target, Label) else sample.query if isinstance(target, Detections) else "all"
    row = counts.setdefault(sample.task.value, {}).setdefault(name, {"questions": 0})
    row["questions"] += 1
    if isinstance(target, Label):
        return
    boxes = [item.box for item in target.items] if isinstance(target, Detections) else [target]
    for key in ("boxes", "small", "medium", "large"):
        row.setdefault(key, 0)
    row["boxes"] += len(boxes)
    for box in boxes:
        row[size_of(box)] += 1
    if isinstance(target, Detections):
        row["absent"] = row.get("absent", 0) + (not boxes)


def negatives_frac(counts: Counts) -> float | None:
    """Return the fraction of detection questions about an absent class; None if the task is not in the dataset."""
    rows = counts.get("detection", {}).values()
    questions = sum(row["questions"] for row in rows)
    return round(sum(row["absent"] for row in rows) / questions, 6) if questions else None


def counts_text(counts: Counts) -> str:
    """Format the counts as a plain-text table, sorted by task and class."""
    keys = ("questions", "absent", "boxes", "small", "medium", "large")
    lines = [["task", "class", *keys]]
    for task, rows in sorted(counts.items()):
        lines += [[task, name, *(str(row.get(key, 0)) for key in keys)] for name, row in sorted(rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[2:], widths[2:], strict=True))
        for line in lines
    )
