"""Statistics of a dataset: numbers of questions, of boxes and of box sizes, by task and class."""

from __future__ import annotations

from virft.tasks import TASKS
from virft.types import Sample

Counts = dict[str, dict[str, dict[str, int]]]
"""Task -> class -> key -> number. Keys: ``questions``, and the counts of the task (``Task.count_target``)."""

_KEYS = ("questions", "absent", "boxes", "small", "medium", "large")
"""The first columns of a table, in this order; other counts of its tasks come after them."""


def count_sample(sample: Sample, counts: Counts) -> None:
    """Add a sample to ``counts``. Samples of a task without classes, such as grounding, count as one class, "all"."""
    task = TASKS[sample.task]
    # Each referring expression is different, so counts by expression would all be 1.
    name = task.class_of(sample) if task.class_of is not None else "all"
    row = counts.setdefault(sample.task, {}).setdefault(name, {"questions": 0})
    row["questions"] += 1
    for key, number in task.count_target(sample.target).items():
        row[key] = row.get(key, 0) + number


def negatives_frac(counts: Counts) -> float | None:
    """Return the fraction of questions about an absent class; None if no task of the dataset has absent classes."""
    rows = [row for by_class in counts.values() for row in by_class.values() if "absent" in row]
    questions = sum(row["questions"] for row in rows)
    return round(sum(row["absent"] for row in rows) / questions, 6) if questions else None


def counts_text(counts: Counts) -> str:
    """Format the counts as a plain-text table, sorted by task and class; only columns that a task of it has."""
    found = dict.fromkeys(key for rows in counts.values() for row in rows.values() for key in row)
    keys = (*(key for key in _KEYS if key in found), *(key for key in found if key not in _KEYS))
    lines = [["task", "class", *keys]]
    for task, rows in sorted(counts.items()):
        # "-" for a count that this task does not have
        lines += [[task, name, *(str(row.get(key, "-")) for key in keys)] for name, row in sorted(rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[2:], widths[2:], strict=True))
        for line in lines
    )
