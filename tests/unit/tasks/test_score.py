"""Score of one answer against its target."""

from __future__ import annotations

from typing import Any

import pytest

from factories import box, detections, reading
from virft.tasks import TASKS
from virft.types import Detections, InvalidElement, Label, Unreadable

UNREADABLE = Unreadable(reason="no answer block")
ONE, TWO = detections((0, 0, 10, 10)), detections((0, 0, 10, 10), (20, 20, 30, 30))


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        (ONE, ONE, 1.0),
        # one hit: 2 x 1 / (1 box + 2 targets)
        (ONE, TWO, 2 / 3),
        (TWO, ONE, 2 / 3),
        (detections((50, 50, 60, 60)), ONE, 0.0),
        (Detections(), ONE, 0.0),
        (Detections(), Detections(), 1.0),
        (ONE, Detections(), 0.0),
        # an element that is no box is a false positive: 2 x 1 / (2 boxes + 1 target)
        (Detections(items=ONE.items, invalid=(InvalidElement(reason="", piece=""),)), ONE, 2 / 3),
        (UNREADABLE, Detections(), 0.0),
        # 50 shared of 100
        (box(0, 0, 10, 5), box(0, 0, 10, 10), 0.5),
        (UNREADABLE, box(0, 0, 10, 10), 0.0),
        (ONE, box(0, 0, 10, 10), 0.0),
        (Label(text="Fox."), Label(text="red fox", aliases=("fox",)), 1.0),
        (Label(text="hen"), Label(text="fox"), 0.0),
        (UNREADABLE, Label(text="fox"), 0.0),
    ],
)
def test_score_of_an_answer(answer: Any, target: Any, score: float) -> None:
    (task,) = (task for task in TASKS.values() if isinstance(target, task.target_type))
    assert task.score(reading(answer), target) == score
