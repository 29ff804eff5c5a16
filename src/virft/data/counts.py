"""How much a data set holds: questions, boxes and their sizes, by task and class."""

from __future__ import annotations

from virft.geometry.boxes import size_of
from virft.types import Detections, Label, Sample

Counts = dict[str, dict[str, dict[str, int]]]
"""Task -> class -> what -> number. What: questions; with boxes also boxes, small, medium, large; detection: absent."""


def count_sample(sample: Sample, counts: Counts) -> None:
    """Add a sample; the class of a classification is its label, all expressions of grounding are one."""
    target = sample.target
    # referring expressions are all different: only their number says something
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
    """Share of detection questions about an absent class; None where there are no detection questions."""
    rows = counts.get("detection", {}).values()
    questions = sum(row["questions"] for row in rows)
    return round(sum(row["absent"] for row in rows) / questions, 6) if questions else None


def counts_text(counts: Counts) -> str:
    """The counts as a table in plain text, tasks and classes sorted."""
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
