"""Metrics of pointing: precision, recall and F1 of points, and the error of their number."""

from __future__ import annotations

from collections.abc import Sequence

from virft.geometry.points import match_points
from virft.metrics.measurement import Measurement, ratio
from virft.text.answers import is_at_most_1
from virft.types import Points, Reading, Unreadable


def pointing_f1(answer: Points, target: Points) -> float:
    """Return F1 of one answer, 2 hits / (N + M), in [0, 1]; 1 for "No Objects" if there are none.

    >>> pointing_f1(Points(), Points())
    1.0
    """
    found = match_points(answer, target)
    num = answer.num_predicted - len(found.ignored) + len(target.objects)
    return 2 * found.num_hits / num if num else 1.0


def pointing_metrics(pairs: Sequence[tuple[Reading, Points]]) -> Measurement:
    """Return metrics over all questions, also those about absent classes.

    ``precision`` = hits / points, ``recall`` = hits / objects, ``f1`` = 2 hits / (points + objects); points include
    invalid elements and exclude those in crowd regions (``match_points``). No object and no point at all: these three
    are 1; any other empty denominator: 0. An unreadable answer has no point. ``count_error``: mean of
    |points - objects|, for an unreadable answer max(objects, 1). ``false_positive_rate``: fraction of the questions
    about an absent class with a point. ``points_per_question``, ``no_objects_frac`` (explicit empty answers),
    ``unreadable_frac``, ``at_most_1_frac``: over all questions. Source: precision and recall of Molmo's pointing
    (arXiv 2409.17146), summed over all questions.

    >>> from virft.geometry.points import point_target
    >>> from virft.types import Box, Point
    >>> target = point_target([Box(x1=0, y1=0, x2=2, y2=2)])
    >>> def says(*points): return Reading(text="", well_formed=True, answer=Points(items=points))
    >>> measured = pointing_metrics([(says(Point(1, 1), Point(9, 9)), target), (says(), target)])
    >>> [measured.values[name] for name in ("precision", "recall", "f1", "count_error")]
    [0.5, 0.5, 0.5, 1.0]
    """
    num_points = num_hits = num_ignored = num_invalid = num_no_objects = num_unreadable = num_at_most_1 = 0
    num_false_alarms = count_error = 0
    for reading, target in pairs:
        answer = reading.answer
        if not isinstance(answer, Points):
            num_unreadable += isinstance(answer, Unreadable)
            num_at_most_1 += is_at_most_1(answer)
            count_error += max(len(target.objects), 1)
            continue
        found = match_points(answer, target)
        num = answer.num_predicted - len(found.ignored)
        num_no_objects += answer.num_predicted == 0
        num_points += num
        num_hits += found.num_hits
        num_ignored += len(found.ignored)
        num_invalid += len(answer.invalid)
        num_false_alarms += not target.objects and num > 0
        count_error += abs(num - len(target.objects))
    num_questions = len(pairs)
    num_targets = sum(len(target.objects) for _, target in pairs)
    num_absent = sum(not target.objects for _, target in pairs)
    nothing = 1.0 if num_questions and num_points == num_targets == 0 else 0.0
    return Measurement(
        values={
            "precision": ratio(num_hits, num_points) or nothing,
            "recall": ratio(num_hits, num_targets) or nothing,
            "f1": ratio(2 * num_hits, num_points + num_targets) or nothing,
            "count_error": ratio(count_error, num_questions),
            "false_positive_rate": ratio(num_false_alarms, num_absent),
            "points_per_question": ratio(num_points + num_ignored, num_questions),
            "no_objects_frac": ratio(num_no_objects, num_questions),
            "unreadable_frac": ratio(num_unreadable, num_questions),
            "at_most_1_frac": ratio(num_at_most_1, num_questions),
        },
        counts={
            "num_questions": num_questions,
            "num_absent": num_absent,
            "num_targets": num_targets,
            "num_points": num_points,
            "num_hits": num_hits,
            "num_ignored": num_ignored,
            "num_invalid": num_invalid,
            "num_unreadable": num_unreadable,
            "num_at_most_1": num_at_most_1,
        },
    )
