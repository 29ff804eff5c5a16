"""The tasks of virft: everything that differs between problems, one file and one row each."""

from __future__ import annotations

from collections.abc import Mapping

from virft.tasks.classification import CLASSIFICATION
from virft.tasks.counting import COUNTING
from virft.tasks.detection import DETECTION
from virft.tasks.grounding import GROUNDING
from virft.tasks.multiclass_detection import MULTICLASS_DETECTION
from virft.tasks.pointing import POINTING
from virft.tasks.short_answer import SHORT_ANSWER
from virft.tasks.task import Task

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (DETECTION, CLASSIFICATION, GROUNDING, COUNTING, MULTICLASS_DETECTION, POINTING, SHORT_ANSWER)
}

__all__ = ["TASKS", "Task"]
