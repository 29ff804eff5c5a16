"""Random plans of scenes: classes, number and size of the objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from virft.scenes.assets import scene_classes
from virft.scenes.patches import PlanItem

MAX_OBJECTS = 6
MAIN_SIDE_RANGE = (58.0, 96.0)
"""Smallest and largest longer side of the object of a classification question, in pixels at REFERENCE_SIZE."""
_COUNT_WEIGHTS = (0.62, 0.22, 0.11, 0.05)  # of 1 to 4 objects of one class
_DISTRACTOR_WEIGHTS = (0.15, 0.3, 0.3, 0.25)  # of 0 to 3 objects of other classes
_RELATED_CHANCE = 0.45  # of an additional class that is a look-alike of a planned one or of the same group
_SMALL_SIDE_RANGE = (22.0, 34.0)


def mixed_plan(rng: np.random.Generator, classes: Sequence[str]) -> list[PlanItem]:
    """Plan 1 to 6 objects of ``classes``; often some of the classes are related."""
    left = int(rng.integers(1, MAX_OBJECTS + 1))
    plan: list[PlanItem] = []
    while left:
        name = _additional_class(rng, [item.class_name for item in plan], classes)
        if name is None:
            break
        plan.append(PlanItem(name, min(left, _random_count(rng))))
        left -= plan[-1].count
    return plan


def detection_plan(
    rng: np.random.Generator, class_name: str, distractors: Sequence[str], *, max_count: int = 4
) -> list[PlanItem]:
    """Plan 1 to ``max_count`` objects of the class and 0 to 3 of ``distractors``."""
    plan = [PlanItem(class_name, min(max_count, _random_count(rng)))]
    for _ in range(min(int(rng.choice(4, p=_DISTRACTOR_WEIGHTS)), MAX_OBJECTS - plan[0].count)):
        if (name := _additional_class(rng, [item.class_name for item in plan], distractors)) is not None:
            plan.append(PlanItem(name))
    return plan


def classification_plan(rng: np.random.Generator, class_name: str, distractors: Sequence[str]) -> list[PlanItem]:
    """Plan one large object of the class and 0 to 2 small ones of other groups."""
    rows = scene_classes()
    others = [name for name in distractors if rows[name].group != rows[class_name].group]
    count = min(int(rng.integers(3)), len(others))
    small = rng.choice(len(others), count, replace=False) if count else ()
    return [
        PlanItem(class_name, 1, MAIN_SIDE_RANGE),
        *(PlanItem(others[index], 1, _SMALL_SIDE_RANGE) for index in small),
    ]


def grounding_plan(rng: np.random.Generator, class_name: str, distractors: Sequence[str]) -> list[PlanItem]:
    """Plan 3 to 6 objects, of which 2 to 4 are of the class or its group, so that expressions must distinguish them."""
    rows = scene_classes()
    kin = [name for name in distractors if rows[name].group == rows[class_name].group and name != class_name]
    strangers = [name for name in distractors if rows[name].group != rows[class_name].group]
    num_kin = int(rng.integers(2, 5))
    num_same = int(rng.integers(1, num_kin + 1)) if kin else num_kin
    counts = {class_name: num_same}
    for pool, number in ((kin, num_kin - num_same), (strangers, int(rng.integers(1, MAX_OBJECTS - num_kin + 1)))):
        for _ in range(number if pool else 0):
            name = pool[int(rng.integers(len(pool)))]
            counts[name] = counts.get(name, 0) + 1
    return [PlanItem(name, count) for name, count in counts.items()]


def _random_count(rng: np.random.Generator) -> int:
    return 1 + int(rng.choice(len(_COUNT_WEIGHTS), p=_COUNT_WEIGHTS))


def _additional_class(rng: np.random.Generator, planned: Sequence[str], classes: Sequence[str]) -> str | None:
    """Return a class that is not planned yet, or None. Half of the related classes are look-alikes, if any exist."""
    left = [name for name in classes if name not in planned]
    if not left:
        return None
    if planned and rng.random() < _RELATED_CHANCE:
        rows = scene_classes()
        relative = rows[planned[int(rng.integers(len(planned)))]]
        alike = [name for name in left if relative.lookalikes and rows[name].lookalikes == relative.lookalikes]
        kin = [name for name in left if rows[name].group == relative.group]
        left = (alike if alike and rng.random() < 0.5 else kin) or left
    return left[int(rng.integers(len(left)))]
