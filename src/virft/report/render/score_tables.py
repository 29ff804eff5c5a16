"""Scores of systems side by side: numbers with their intervals, differences, and what must not be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from virft.metrics.bootstrap import difference_intervals
from virft.report.render.line_chart import ticks
from virft.report.render.reported import ReportedAnswers, ReportedSystem
from virft.tasks import TASKS
from virft.tasks.task import Metric
from virft.types import Scores

MOST_TABLE_ROWS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A system's number. ``between``: its interval, or the range of its seeds; ``change``: against the first system.

    ``change_between``: the change's interval; ``sense``: "better" or "worse" if that leaves out 0, else "". ``low`` and
    ``high``: the ends of ``between``.
    """

    value: float | None = None
    text: str = "–"
    between: str = ""
    change: str = ""
    change_between: str = ""
    sense: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A number of every system of the table."""

    name: str
    words: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ByName:
    """A further table, such as a number of each class; ``rest``: rows that were left out."""

    title: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    rest: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """One task of one test set. ``systems``: name and place on the page; ``facts``: what was asked, in words.

    ``warnings``: why its columns must not be compared as they stand; ``rows``: what to look at first, ``more``: all
    other numbers, ``tables``: by class and the like.
    """

    test: str
    task: str
    systems: tuple[tuple[str, int], ...]
    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]
    more: tuple[Row, ...]
    tables: tuple[ByName, ...] = field(default=())

    @property
    def headline(self) -> Row:
        """The number that says how good a model is."""
        return self.rows[0]

    @property
    def axis(self) -> list[float]:
        """Ticks for the headline's numbers and their intervals, from 0."""
        ends = [end for cell in self.headline.cells for end in (cell.value, cell.high) if end is not None]
        return ticks(0.0, max(ends, default=0.0))

    @property
    def explained(self) -> list[Row]:
        """The rows whose numbers have words."""
        return [row for row in (*self.rows, *self.more) if row.words]


def names_of_tests(systems: Iterable[ReportedSystem]) -> list[str]:
    """Every test set that a system has answered, in the order they come."""
    return list(dict.fromkeys(name for system in systems for name in system.answers))


def score_tables(systems: Sequence[ReportedSystem]) -> list[ScoreTable]:
    """A table for each test set and task. Differences are to the first system of a table."""
    return [
        _table(test, task, systems)
        for test in names_of_tests(systems)
        for task in TASKS
        if any(one.of_task(task) for system in systems for one in system.answers.get(test, ()))
    ]


def disagreements(answers: Sequence[tuple[str, Sequence[ReportedAnswers]]], *, task: str | None = None) -> list[str]:
    """Why scores of these systems (name, answers of its seeds) are not of one kind, in words; of one ``task``, if set.

    They differ in the data set's content, its protocol, the number of questions, the rule of scoring, or the way of
    asking.
    """
    facts: dict[str, dict[str, list[str]]] = {}
    for name, seeds in answers:
        for what, found in _facts_to_compare(seeds, task).items():
            facts.setdefault(what, {}).setdefault(found, []).append(name)
    return [
        f"{what} differs: " + "; ".join(f"{found} ({', '.join(names)})" for found, names in by_value.items())
        for what, by_value in facts.items()
        if len(by_value) > 1
    ]


def _facts_to_compare(seeds: Sequence[ReportedAnswers], task: str | None) -> dict[str, str]:
    """What must be the same -> what it is; of several seeds all of it."""
    scores = [one for answers in seeds for one in answers.scores if task in (None, one.task)]
    facts = {
        "the data": [f"hash {answers.data_hash[:12]}" for answers in seeds],
        "the protocol": [one.protocol for one in scores],
        "the number of questions": [f"{one.num_samples}" for one in scores],
        "the rule of scoring": [answers.scored for answers in seeds if answers.scored],
    }
    for name in sorted({name for answers in seeds for name in answers.asked}):
        facts[f"{name.replace('_', ' ')} in asking"] = [str(answers.asked.get(name)) for answers in seeds]
    return {what: ", ".join(dict.fromkeys(found)) for what, found in facts.items() if found}


class _Column(NamedTuple):
    """A system's answers to the test of a table: scores of a task for each seed that has some."""

    name: str
    place: int
    answers: tuple[ReportedAnswers, ...]
    scores: tuple[Scores, ...]

    def values(self, name: str) -> list[float]:
        return [value for one in self.scores for key, value in one.values.items() if _plain(key) == name]

    def asked(self, name: str) -> str:
        """How many were asked where not all were: ``120 of 320``."""
        found = (_ASKED.search(key) for one in self.scores for key in one.values if _plain(key) == name)
        return next((match[1] for match in found if match), "")

    def interval(self, name: str) -> tuple[float, float] | None:
        return next((ends for key, ends in self.scores[0].intervals.items() if _plain(key) == name), None)


def _table(test: str, task: str, systems: Sequence[ReportedSystem]) -> ScoreTable:
    columns = []
    for place, system in enumerate(systems):
        answers = tuple(one for one in system.answers.get(test, ()) if one.of_task(task) is not None)
        if answers:
            scores = tuple(found for one in answers if (found := one.of_task(task)) is not None)
            columns.append(_Column(system.name, place, answers, scores))
    there = list(dict.fromkeys(_plain(name) for column in columns for one in column.scores for name in one.values))
    described = TASKS[task].described_metrics
    first = [metric.name for metric in described if metric.in_table and metric.name in there] or there[:1]
    order = {metric.name: at for at, metric in enumerate(described)}
    more = sorted((name for name in there if name not in first), key=lambda name: order.get(name, len(order)))
    differences = _difference_intervals(columns, task)
    warnings = disagreements([(column.name, column.answers) for column in columns], task=task)
    warnings += [f"{column.name}: {one.problem}" for column in columns for one in column.answers if one.problem]
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
    """Of each column to the first, where the same was asked."""
    first = columns[0]
    found: list[Mapping[str, tuple[float, float]]] = []
    for column in columns:
        before, after = (
            [one.resampled[task] for one in each.answers if task in one.resampled] for each in (first, column)
        )
        complete = len(before) == len(first.answers) and len(after) == len(column.answers)
        comparable = column is not first and complete and _same_questions(first, column)
        found.append(difference_intervals(before, after) if comparable else {})
    return found


def _row(metric: Metric, columns: Sequence[_Column], differences: Sequence[Mapping[str, tuple[float, float]]]) -> Row:
    first, name = columns[0], metric.name
    cells = []
    for column, intervals in zip(columns, differences, strict=True):
        comparable = column is not first and _same_questions(first, column)
        cells.append(_cell(column, metric, first.values(name) if comparable else [], intervals.get(name)))
    return Row(name=name, words=metric.description, cells=tuple(cells))


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
    if before:
        difference = value - fmean(before)
        change = signed(difference)
        if interval is not None:
            change_between = f"{signed(interval[0])} to {signed(interval[1])}"
            if interval[0] > 0 or interval[1] < 0:
                sense = {1: "better", -1: "worse", 0: ""}[metric.better * (1 if difference > 0 else -1)]
    return Cell(
        value=value,
        text=f"{value:.3f} ({asked})" if (asked := column.asked(metric.name)) else f"{value:.3f}",
        between=between,
        change=change,
        change_between=change_between,
        sense=sense,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
    )


def signed(value: float) -> str:
    """A difference with its sign, a real minus, and no negative zero.

    >>> signed(0.1234), signed(-0.5), signed(-0.0001)
    ('+0.123', '−0.500', '0.000')
    """
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def _same_questions(first: _Column, column: _Column) -> bool:
    """Whether a difference between two systems means anything: the same questions, all of them."""
    sets = [{(one.data_hash, one.protocol, one.num_samples) for one in each.scores} for each in (first, column)]
    return sets[0] == sets[1]


def _facts(columns: Sequence[_Column]) -> tuple[str, ...]:
    scores = [one for column in columns for one in column.scores]
    protocols = dict.fromkeys(f"protocol {one.protocol}" for one in scores if TASKS[one.task].absent is not None)
    questions = dict.fromkeys(f"{one.num_samples} questions" for one in scores)
    hashes = dict.fromkeys(f"data {one.data_hash[:12]}" for one in scores)
    return (scores[0].task, *protocols, *questions, *hashes)


def _by_name(columns: Sequence[_Column]) -> list[ByName]:
    """Tables of the first seed of each system."""
    names = list(dict.fromkeys(_plain(name) for column in columns for name in column.scores[0].tables))
    tables = []
    for name in names:
        found = [
            next((rows for key, rows in column.scores[0].tables.items() if _plain(key) == name), {})
            for column in columns
        ]
        labels = list(dict.fromkeys(label for rows in found for label in rows))
        rows = tuple(
            (label, tuple(_shown(one[label]) if label in one else "–" for one in found))
            for label in labels[:MOST_TABLE_ROWS]
        )
        rest = max(0, len(labels) - MOST_TABLE_ROWS)
        tables.append(ByName(title=name.replace("_", " "), rows=rows, rest=rest))
    return tables


def _shown(value: float) -> str:
    """A share, or a count, as it is written."""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _plain(name: str) -> str:
    """The name of a number without how many were asked.

    >>> _plain("f1 (120 of 320)"), _plain("giou (masks: box)")
    ('f1', 'giou (masks: box)')
    """
    return _ASKED.sub("", name)


_ASKED = re.compile(r" \((\d+ of \d+)\)$")
