"""Tables of metrics by system: confidence intervals, differences to the first system, warnings against comparing."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from virft.config.wording import counted
from virft.evaluation.predictions import DTYPE, ENGINE, IN_4BIT
from virft.metrics.bootstrap import difference_intervals
from virft.metrics.labels import label_of
from virft.models.precision import Precision
from virft.report.render.reported import ReportedPredictions, ReportedSystem
from virft.tasks import TASKS
from virft.tasks.task import Metric
from virft.types import Scores

MOST_TABLE_ROWS = 200
_BY_CLASS = ("ap", "f1", "accuracy")
"""Tables with a row for each class."""
_CSV_COLUMNS = ("value", "low", "high", "difference", "difference_low", "difference_high")
_UNDEFINED_AT_0 = {
    "precision": "num_boxes",
    "precision_mean": "num_boxes",
    "recall": "num_targets",
    "recall_mean": "num_targets",
    "false_positive_rate": "num_absent",
    "mean_confidence": "num_confidences",
    "calibration_error": "num_confidences",
}
"""Metric -> the count that it is divided by; without it the metric is undefined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A metric of one system."""

    value: float | None = None
    """Value, the mean over seeds if there are several."""
    text: str = "–"
    """Formatted value."""
    coverage: str = ""
    """``120 of 320`` if only some questions have a prediction."""
    between: str = ""
    """95 % confidence interval, or the range over seeds."""
    change: str = ""
    """Difference to the first system."""
    change_between: str = ""
    """95 % confidence interval of the difference."""
    sense: str = ""
    """``better`` or ``worse`` if the interval of the difference excludes 0, else empty."""
    low: float | None = None
    """Lower end of ``between``."""
    high: float | None = None
    """Upper end of ``between``."""
    differences: tuple[float, float | None, float | None] | None = None
    """Difference to the first system with the ends of its confidence interval, if they are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A metric, for every system of the table."""

    name: str
    description: str
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """Name for readers."""
        return label_of(self.name)

    @property
    def is_defined(self) -> bool:
        """False if no system has a value, such as false positives on absent classes without any absent class."""
        return any(cell.value is not None for cell in self.cells)


@dataclass(frozen=True, kw_only=True, slots=True)
class ByName:
    """An additional table, such as a metric by class. ``num_omitted``: rows above the limit that are not shown."""

    title: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    num_omitted: int = 0
    is_by_class: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """The metrics of one task of one test set."""

    test: str
    """Name of the test set."""
    task: str
    """Task of the questions."""
    systems: tuple[tuple[str, int], ...]
    """Name of each system and its index on the page."""
    facts: tuple[str, ...]
    """Task, protocol, number of questions, dataset hash and precision of the models."""
    warnings: tuple[str, ...]
    """Reasons why the columns must not be compared."""
    rows: tuple[Row, ...]
    """The main metrics."""
    more: tuple[Row, ...]
    """All other metrics."""
    tables: tuple[ByName, ...] = field(default=())
    """Tables by class and the like."""

    @property
    def headline(self) -> Row:
        """The task's headline metric."""
        return self.rows[0]

    @property
    def differences(self) -> list[Row]:
        """The rows with a confidence interval of a difference to the first system."""
        return [row for row in (*self.rows, *self.more) if any(cell.change_between for cell in row.cells)]

    @property
    def csv(self) -> str:
        """Every metric of every system, one a line, for a spreadsheet."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("test", "task", "metric", "system", *_CSV_COLUMNS))
        for row in (*self.rows, *self.more):
            for (system, _), cell in zip(self.systems, row.cells, strict=True):
                if cell.value is not None:
                    numbers = (cell.value, cell.low, cell.high, *(cell.differences or (None,) * 3))
                    texts = ("" if one is None else f"{one:.4f}" for one in numbers)
                    writer.writerow((self.test, self.task, row.name, system, *texts))
        return buffer.getvalue()

    @property
    def explained(self) -> list[Row]:
        """The rows whose metric has a description."""
        return [row for row in (*self.rows, *self.more) if row.description]


def names_of_tests(systems: Iterable[ReportedSystem]) -> list[str]:
    """Return the names of all test sets with predictions, in order of appearance."""
    return list(dict.fromkeys(name for system in systems for name in system.predictions))


def score_tables(systems: Sequence[ReportedSystem]) -> list[ScoreTable]:
    """Return a table for each test set and task. Differences are to the first system of a table."""
    return [
        _table(test, task, systems)
        for test in names_of_tests(systems)
        for task in TASKS
        if any(one.of_task(task) for system in systems for one in system.predictions.get(test, ()))
    ]


def disagreements(
    systems: Sequence[tuple[str, Sequence[ReportedPredictions]]], *, task: str | None = None
) -> list[str]:
    """Return the reasons why the scores of systems (name, predictions of its seeds) are not comparable.

    Compared are the dataset's content, the protocol, the number of questions, the scoring rules, the prompt settings
    and the precision. ``task``: compare the scores of this task only.
    """
    facts: dict[str, dict[str, list[str]]] = {}
    for name, seeds in systems:
        for what, found in _facts_to_compare(seeds, task).items():
            facts.setdefault(what, {}).setdefault(found, []).append(name)
    return [
        f"{what} differs: " + "; ".join(f"{found} ({', '.join(names)})" for found, names in by_value.items())
        for what, by_value in facts.items()
        if len(by_value) > 1
    ]


def _facts_to_compare(seeds: Sequence[ReportedPredictions], task: str | None) -> dict[str, str]:
    """Return the facts that must agree between systems; several values if the seeds differ."""
    scores = [one for predictions in seeds for one in predictions.scores if task in (None, one.task)]
    facts = {
        "the data": [f"hash {one.data_hash[:12]}" for one in seeds],
        "the protocol": [one.protocol for one in scores],
        "the number of questions": [f"{one.num_samples}" for one in scores],
        "the scoring": [one.scored for one in seeds if one.scored],
    }
    for name in sorted({name for one in seeds for name in one.settings}):
        facts[f"the setting {name}"] = [str(one.settings.get(name)) for one in seeds]
    return {what: ", ".join(dict.fromkeys(found)) for what, found in facts.items() if found}


class _Column(NamedTuple):
    """A system's predictions on the test set of a table: scores of the task for each seed that has any."""

    name: str
    place: int
    predictions: tuple[ReportedPredictions, ...]
    scores: tuple[Scores, ...]

    def values(self, name: str) -> list[float]:
        """Return the value of each seed for which the metric is defined."""
        return [
            value
            for one in self.scores
            for key, value in one.values.items()
            if without_coverage(key) == name and one.counts.get(_UNDEFINED_AT_0.get(name, ""), 1) != 0
        ]

    def coverage(self, name: str) -> str:
        """Return ``120 of 320`` if only some questions have a prediction, else an empty string."""
        found = (_COVERAGE.search(key) for one in self.scores for key in one.values if without_coverage(key) == name)
        return next((match[1] for match in found if match), "")

    def interval(self, name: str) -> tuple[float, float] | None:
        return next((ends for key, ends in self.scores[0].intervals.items() if without_coverage(key) == name), None)


def _table(test: str, task: str, systems: Sequence[ReportedSystem]) -> ScoreTable:
    columns = []
    for place, system in enumerate(systems):
        predictions = tuple(one for one in system.predictions.get(test, ()) if one.of_task(task) is not None)
        if predictions:
            scores = tuple(found for one in predictions if (found := one.of_task(task)) is not None)
            columns.append(_Column(system.name, place, predictions, scores))
    names = list(
        dict.fromkeys(without_coverage(name) for column in columns for one in column.scores for name in one.values)
    )
    described = TASKS[task].described_metrics
    first = [metric.name for metric in described if metric.in_table and metric.name in names] or names[:1]
    order = {metric.name: at for at, metric in enumerate(described)}
    more = sorted((name for name in names if name not in first), key=lambda name: order.get(name, len(order)))
    differences = _difference_intervals(columns, task)
    warnings = disagreements([(column.name, column.predictions) for column in columns], task=task)
    warnings += [f"{column.name}: {one.problem}" for column in columns for one in column.predictions if one.problem]
    return ScoreTable(
        test=test,
        task=task,
        systems=tuple((column.name, column.place) for column in columns),
        facts=_facts(columns),
        warnings=tuple(warnings),
        rows=tuple(_row(TASKS[task].metric(name), columns, differences) for name in first),
        more=tuple(_row(TASKS[task].metric(name), columns, differences) for name in more),
        tables=tuple(_by_name(columns)),
    )


def _difference_intervals(columns: Sequence[_Column], task: str) -> list[Mapping[str, tuple[float, float]]]:
    """Return the intervals of each column's difference to the first, if both have the same questions."""
    first = columns[0]
    found: list[Mapping[str, tuple[float, float]]] = []
    for column in columns:
        before, after = (
            [one.resampled[task] for one in each.predictions if task in one.resampled] for each in (first, column)
        )
        complete = len(before) == len(first.predictions) and len(after) == len(column.predictions)
        comparable = column is not first and complete and _same_questions(first, column)
        found.append(difference_intervals(before, after) if comparable else {})
    return found


def _row(metric: Metric, columns: Sequence[_Column], differences: Sequence[Mapping[str, tuple[float, float]]]) -> Row:
    first, name = columns[0], metric.name
    cells = []
    for column, intervals in zip(columns, differences, strict=True):
        comparable = column is not first and _same_questions(first, column)
        cells.append(_cell(column, metric, first.values(name) if comparable else [], intervals.get(name)))
    return Row(name=name, description=metric.description, cells=tuple(cells))


def _cell(column: _Column, metric: Metric, before: Sequence[float], interval: tuple[float, float] | None) -> Cell:
    values = column.values(metric.name)
    if not values:
        return Cell()
    value = fmean(values)
    ends = column.interval(metric.name) if len(values) == 1 else (min(values), max(values))
    between = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
    if len(values) > 1:
        between = f"{between}, {len(values)} seeds"
    change, change_between, sense = "", "", ""
    differences: tuple[float, float | None, float | None] | None = None
    if before:
        difference = value - fmean(before)
        change, differences = signed(difference), (difference, *(interval or (None, None)))
        if interval is not None:
            change_between = f"{signed(interval[0])} to {signed(interval[1])}"
            if interval[0] > 0 or interval[1] < 0:
                sense = {1: "better", -1: "worse", 0: ""}[metric.better * (1 if difference > 0 else -1)]
    return Cell(
        value=value,
        text=f"{value:.3f}",
        coverage=column.coverage(metric.name),
        between=between,
        change=change,
        change_between=change_between,
        sense=sense,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        differences=differences,
    )


def signed(value: float) -> str:
    """Format a difference with its sign, a typographic minus, and no negative zero.

    >>> signed(0.1234), signed(-0.5), signed(-0.0001)
    ('+0.123', '−0.500', '0.000')
    """
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def _same_questions(first: _Column, column: _Column) -> bool:
    """Return True if both systems have predictions on exactly the same questions."""
    sets = [{(one.data_hash, one.protocol, one.num_samples) for one in each.scores} for each in (first, column)]
    return sets[0] == sets[1]


def _facts(columns: Sequence[_Column]) -> tuple[str, ...]:
    scores = [one for column in columns for one in column.scores]
    protocols = dict.fromkeys(f"protocol {one.protocol}" for one in scores if TASKS[one.task].absent is not None)
    questions = dict.fromkeys(counted(one.num_samples, "question") for one in scores)
    hashes = dict.fromkeys(f"data {one.data_hash[:12]}" for one in scores)
    settings = [one.settings for column in columns for one in column.predictions]
    precisions = dict.fromkeys(str(Precision(one[DTYPE], one[IN_4BIT])) for one in settings if DTYPE in one)
    engines = dict.fromkeys(f"predicted with {one[ENGINE]}" for one in settings if ENGINE in one)
    return (scores[0].task, *protocols, *questions, *hashes, *precisions, *engines)


def _by_name(columns: Sequence[_Column]) -> list[ByName]:
    """Return the additional tables, of the first seed of each system."""
    names = list(dict.fromkeys(without_coverage(name) for column in columns for name in column.scores[0].tables))
    tables = []
    for name in names:
        found = [
            next((rows for key, rows in column.scores[0].tables.items() if without_coverage(key) == name), {})
            for column in columns
        ]
        labels = list(dict.fromkeys(label for rows in found for label in rows))
        rows = tuple(
            (label, tuple(_format_entry(one[label]) if label in one else "–" for one in found))
            for label in labels[:MOST_TABLE_ROWS]
        )
        num_omitted = max(0, len(labels) - MOST_TABLE_ROWS)
        tables.append(ByName(title=label_of(name), rows=rows, num_omitted=num_omitted, is_by_class=name in _BY_CLASS))
    return tables


def _format_entry(value: float) -> str:
    """Format a fraction with three decimals, a count as an integer."""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def without_coverage(name: str) -> str:
    """Return a metric's name without its coverage.

    >>> without_coverage("f1 (120 of 320)"), without_coverage("giou (masks: box)")
    ('f1', 'giou (masks: box)')
    """
    return _COVERAGE.sub("", name)


_COVERAGE = re.compile(r" \((\d+ of \d+)\)$")
