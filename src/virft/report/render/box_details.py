"""Precision-recall curve, F1 over confidence and confusion matrix of each test set with boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virft.metrics.box_curves import BoxCurves
from virft.metrics.confusion import NOTHING, ConfusionMatrix
from virft.report.render.curves import Chart, CurvePoints, Line, thinned
from virft.report.render.reported import BoxDiagnostics, ReportedSystem
from virft.report.render.score_tables import names_of_tests

MOST_CLASSES = 12
OTHERS = "other classes"
LEAST_THRESHOLDS = 3
"""Distinct confidences that a curve needs."""
_NO_CURVES = "No curves over the confidence: the predicted boxes have fewer than 3 different confidences."


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusionView:
    """A confusion matrix as rows of (count, fraction of the row); ``columns`` are predicted classes.

    ``is_open``: shown at first; those of other systems are collapsed.
    """

    system: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]
    is_open: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxDetails:
    """Details about the boxes of one test set. ``confusions``: of each system, the last system first.

    ``note``: reason why there are no curves.
    """

    test: str
    charts: tuple[Chart, ...]
    confusions: tuple[ConfusionView, ...]
    note: str = ""


def box_details(systems: Sequence[ReportedSystem]) -> list[BoxDetails]:
    """Return the details of each test set and task with boxes; of several seeds, those of the first."""
    return [found for test in names_of_tests(systems) for found in _of_test(test, systems)]


def _of_test(test: str, systems: Sequence[ReportedSystem]) -> Iterator[BoxDetails]:
    by_task: dict[str, list[tuple[int, str, BoxDiagnostics]]] = {}
    for place, system in enumerate(systems):
        for one in system.predictions.get(test, ())[:1]:
            for task, found in one.diagnostics.items():
                by_task.setdefault(task, []).append((place, system.name, found))
    for found_systems in by_task.values():
        lines = [(place, name, one.curves) for place, name, one in found_systems if one.curves is not None]
        has_curves = any(len(curves.thresholds) >= LEAST_THRESHOLDS for _, _, curves in lines)
        yield BoxDetails(
            test=test,
            charts=(_precision_recall(lines), _f1_over_confidence(lines)) if has_curves else (),
            note="" if has_curves else _NO_CURVES,
            confusions=tuple(
                _confusion(name, one.confusion, is_open=place == found_systems[-1][0])
                for place, name, one in reversed(found_systems)
                if len(one.confusion.labels) > 1
            ),
        )


def _precision_recall(systems: Sequence[tuple[int, str, BoxCurves]]) -> Chart:
    return Chart(
        title="Precision over recall",
        description="IoU 0.5; each point is a confidence threshold",
        x_name="recall",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        lines=tuple(
            Line(
                name=name,
                tone=place,
                points=thinned(CurvePoints(one.recall, one.precision)),
                summary=f"{one.precision[-1]:.2f} at recall {one.recall[-1]:.2f}",
            )
            for place, name, one in systems
        ),
    )


def _f1_over_confidence(systems: Sequence[tuple[int, str, BoxCurves]]) -> Chart:
    return Chart(
        title="F1 over confidence",
        description="F1 of the boxes with at least this confidence",
        x_name="confidence threshold",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        lines=tuple(
            Line(
                name=name,
                tone=place,
                # below the lowest confidence every box counts
                points=thinned(CurvePoints((0.0, *reversed(one.thresholds)), (one.f1[-1], *reversed(one.f1)))),
                summary=f"best {one.f1[one.best]:.3f} at {one.thresholds[one.best]:.2f}, all boxes {one.f1[-1]:.3f}",
            )
            for place, name, one in systems
        ),
    )


def _confusion(system: str, matrix: ConfusionMatrix, *, is_open: bool) -> ConfusionView:
    """Lay out a matrix; the classes with the fewest targets share one row and one column if there are many."""
    alone = matrix.labels if len(matrix.labels) <= MOST_CLASSES else matrix.labels[: MOST_CLASSES - 1]
    names = {NOTHING: NOTHING} | {label: label if label in alone else OTHERS for label in matrix.labels}
    counts: dict[tuple[str, str], int] = {}
    for (target, predicted), count in matrix.counts.items():
        cell = names[target], names[predicted]
        counts[cell] = counts.get(cell, 0) + count
    shown = (*alone, *([OTHERS] if len(alone) < len(matrix.labels) else []), NOTHING)
    rows = []
    for target in shown:
        numbers = [counts.get((target, predicted), 0) for predicted in shown]
        total = sum(numbers)
        fractions = [number / total if total else 0.0 for number in numbers]
        rows.append((target or "no object", tuple(zip(numbers, fractions, strict=True))))
    columns = tuple(label or "not found" for label in shown)
    return ConfusionView(system=system, columns=columns, rows=tuple(rows), is_open=is_open)
