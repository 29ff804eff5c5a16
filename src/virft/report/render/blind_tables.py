"""Blind baselines next to a table of scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virft.evaluation.blind import BlindBaseline
from virft.report.render.reported import ReportedPredictions, ReportedSystem
from virft.report.render.score_tables import Cell, Row, ScoreTable, without_coverage


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindTable:
    """The main metrics of each blind baseline, the best baseline first."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def blind_table(table: ScoreTable, systems: Sequence[ReportedSystem]) -> BlindTable | None:
    """Return the blind baselines of a table's test set; None if there are none."""
    fitted = next(
        (one.blind[table.task] for _, one in first_predictions(table, systems) if table.task in one.blind), None
    )
    if fitted is None:
        return None
    return BlindTable(
        columns=tuple(one.name for one in fitted.baselines),
        rows=tuple(
            Row(
                name=row.name,
                description=row.description,
                cells=tuple(blind_cell(one, row.name) if row.is_defined else Cell() for one in fitted.baselines),
            )
            for row in table.rows
        ),
    )


def first_predictions(
    table: ScoreTable, systems: Sequence[ReportedSystem]
) -> Iterator[tuple[ReportedSystem, ReportedPredictions]]:
    """Yield each system of a table with the predictions of its first seed."""
    for _, place in table.systems:
        yield systems[place], systems[place].predictions[table.test][0]


def blind_cell(baseline: BlindBaseline, metric: str) -> Cell:
    """Return a metric of a baseline; an empty cell if it does not have it."""
    value = next((one for name, one in baseline.values.items() if without_coverage(name) == metric), None)
    if value is None:
        return Cell()
    ends = next((one for name, one in baseline.intervals.items() if without_coverage(name) == metric), None)
    return Cell(
        value=value,
        text=f"{value:.3f}",
        between=f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "",
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
    )
