"""Reward functions of pointing: points inside the boxes of objects, one for each."""

from __future__ import annotations

import math

from virft.geometry.points import match_points
from virft.types import Points, Reading, RewardContext


def pointing_rewards(reading: Reading, target: Points, context: RewardContext) -> dict[str, float]:
    """Return ``hit`` and ``closeness``, both in [0, 1] and over max(N, M): N predicted points, M objects.

    ``hit``: hits / max(N, M), so a missed object and an additional point (a second one on the same object, an invalid
    element) both lower it. ``closeness``: sum of the closeness of all hits / max(N, M). No objects: 1 in both for an
    explicit empty answer, 0 for any point. A point without an object in a crowd region counts as if it was not
    predicted. Unreadable: both 0.

    >>> from virft.geometry.points import point_target
    >>> from virft.types import Box, Point
    >>> box = Box(x1=0, y1=0, x2=8, y2=8)
    >>> answer = Points(items=(Point(4, 4), Point(5, 4)))  # the second one has no object of its own
    >>> pointing_rewards(Reading(text="", well_formed=True, answer=answer), point_target([box]), RewardContext())
    {'hit': 0.5, 'closeness': 0.5}
    """
    answer = reading.answer
    if not isinstance(answer, Points):
        return {"hit": 0.0, "closeness": 0.0}
    found = match_points(answer, target)
    num = max(answer.num_predicted - len(found.ignored), len(target.objects))
    if num == 0:
        return {"hit": 1.0, "closeness": 1.0}
    return {"hit": found.num_hits / num, "closeness": math.fsum(found.closeness) / num}
