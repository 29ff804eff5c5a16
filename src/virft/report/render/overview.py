"""The first screen of a page: what was trained, headline metrics with blind baselines, warnings, four examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from virft.config.wording import counted
from virft.evaluation.blind import BlindBaseline, BlindScores
from virft.metrics.labels import label_of
from virft.report.render.blind_tables import blind_cell, first_predictions
from virft.report.render.reported import ReportedRun, ReportedSystem
from virft.report.render.run_cards import warm_start_of
from virft.report.render.score_tables import Cell, ScoreTable
from virft.report.render.shown_questions import ShownPrediction, ShownQuestion, ShownTest

MOST_BADGES = 8
EVENT_LABELS = {
    "accuracy": "reward rises, the task part is flat",
    "checkpoint": "corrupt checkpoint",
    "collapse": "answers collapse",
    "end": "stopped early",
    "entropy": "entropy collapse",
    "kl": "large KL divergence",
    "learning_rate": "unusual learning rate",
    "length": "completions grow",
    "nonfinite": "non-finite values",
    "prompt_length": "prompts leave too little room for completions",
    "image_tokens": "images have very many tokens",
    "sampler": "sampler and policy differ",
    "slow_sampler": "slow sampler",
    "test_data": "validation set is a test set",
    "truncated": "truncated completions",
    "unreadable": "unreadable completions",
    "at_most_1": "answers with all numbers at most 1",
    "validation_data": "validation set and training set overlap",
    "zero_std": "equal rewards in every group",
}
"""Label of each event that is a warning; of other events the name is shown."""
_NO_WARNINGS = ("resume", "settings")
_MOST_FULL_PLOTS = 2
"""Up to this number of interval plots each lists all blind baselines; more plots list the best one each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedLine:
    """A line about what was trained. ``place``: index of the system on the page, which selects its colour."""

    name: str
    place: int
    facts: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Badge:
    """A short warning. ``target``: id of the part of the page with the details, which begin with ``detail``."""

    text: str
    target: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlotRow:
    """A system or a blind baseline in an interval plot. Positions are percent of the axis from 0 to 1."""

    name: str
    """Name of the system or of the baseline."""
    place: int | None
    """Index of the system on the page; None for a blind baseline."""
    cell: Cell
    """Value, interval and difference as text."""
    at: float | None
    """Position of the value; None if there is none."""
    low: float | None
    """Position of the lower end of the interval."""
    high: float | None
    """Position of the upper end of the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalPlot:
    """The headline metric of a test set: every system, then blind baselines, on one axis from 0 to 1."""

    number: int
    """Number of the score table with the other metrics, from 1."""
    test: str
    """Name of the test set."""
    metric: str
    """Label of the headline metric."""
    facts: str
    """Number of questions."""
    rows: tuple[PlotRow, ...]
    """Systems in the order of the page, then blind baselines, the best first."""
    best_blind: float | None
    """Position of the best blind baseline in percent; None without blind baselines."""
    verdicts: tuple[str, ...]
    """A sentence for each position against the best blind baseline that some systems have, unless it is above."""
    note: str
    """Reason why there are no blind baselines; empty if there are some."""


class Example(NamedTuple):
    """An example image. ``kind``: better, worse, failure or typical; ``prediction``: that of the last system."""

    kind: str
    question: ShownQuestion
    prediction: ShownPrediction
    before: ShownPrediction | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """Content of the first screen."""

    trained: tuple[TrainedLine, ...]
    badges: tuple[Badge, ...]
    plots: tuple[IntervalPlot, ...]
    examples: tuple[Example, ...]


def make_overview(
    systems: Sequence[ReportedSystem], tables: Sequence[ScoreTable], tests: Sequence[ShownTest]
) -> Overview:
    """Return the first screen of a page with these score tables and examples."""
    most_blind = None if len(tables) <= _MOST_FULL_PLOTS else 1
    return Overview(
        trained=tuple(_trained(place, system) for place, system in enumerate(systems) if system.runs),
        badges=tuple(list(dict.fromkeys(_badges(systems, tables)))[:MOST_BADGES]),
        plots=tuple(_plot(number, table, systems, most_blind) for number, table in enumerate(tables, start=1)),
        examples=select_four(tests),
    )


def select_four(tests: Sequence[ShownTest]) -> tuple[Example, ...]:
    """Return two questions that became better, a failure and a typical one; others if one of these does not exist.

    Of those that became better, the ones with a box to show come first.
    """
    changed = sorted(
        (one for test in tests for one in test.changed), key=lambda one: not one.predictions[-1].panel.shapes
    )
    better, worse = ([_example(kind, one) for one in changed if one.change == kind] for kind in ("better", "worse"))
    failures = [_example("failure", one) for test in tests for one in test.failures]
    typical = [_example("typical", one) for test in tests for one in test.typical[len(test.typical) // 2 :]]
    first = [*better[:2], *failures[:1], *typical[:1]]
    others = [one for one in (*worse, *failures[1:], *typical[1:], *better[2:]) if one not in first]
    return tuple((first + others)[:4])


def _example(kind: str, one: ShownQuestion) -> Example:
    before = one.predictions[0] if len(one.predictions) > 1 else None
    return Example(kind=kind, question=one, prediction=one.predictions[-1], before=before)


def _trained(place: int, system: ReportedSystem) -> TrainedLine:
    first = system.runs[0]
    seeds = f", {len(system.runs)} seeds" if len(system.runs) > 1 else ""
    steps = first.settings.get(f"{first.trainer}.steps")
    facts = (
        f"{first.card.get('model') or first.settings.get('model.path') or 'model not recorded'}",
        f"{first.trainer.upper()} on {_training_data(first) or 'data not recorded'}",
        f"{counted(steps, 'step')}{warm_start_of(first)}{seeds}" if steps is not None else "",
    )
    return TrainedLine(name=system.name, place=place, facts=" · ".join(filter(None, facts)))


def _training_data(run: ReportedRun) -> str:
    """Return the paths of a run's training data, of a mixture separated by commas."""
    mixed = (str(value) for key, value in run.settings.items() if key.startswith("mixture.") and key.endswith(".data"))
    return str(run.settings.get("data.train") or ", ".join(mixed))


def _badges(systems: Sequence[ReportedSystem], tables: Sequence[ScoreTable]) -> Iterator[Badge]:
    """Yield the warnings, those about the predictions first."""
    for number, table in enumerate(tables, start=1):
        for system, one in first_predictions(table, systems):
            found = one.blind.get(table.task)
            if found is not None and found.common_answer is not None:
                yield Badge(text=f"{system.name}, {table.test}: {found.common_answer}", target=f"table-{number}")
        if table.warnings:
            yield Badge(text=f"{table.test}: not comparable, see the notes", target=f"table-{number}")
    for system in systems:
        for run in system.runs:
            yield from _event_badges(run)


def _event_badges(run: ReportedRun) -> Iterator[Badge]:
    """Yield a warning for each kind of event of a run, with the message of the first one.

    A stop after which the run was resumed is no warning.
    """
    messages: dict[str, list[str]] = {}
    for event in run.events:
        name = str(event.get("event", ""))
        if name == "resume":
            messages.pop("end", None)
        if name not in _NO_WARNINGS:
            messages.setdefault(name, []).append(str(event.get("message", "")))
    for name, found in messages.items():
        times = f", {len(found)} times" if len(found) > 1 else ""
        label = EVENT_LABELS.get(name, name.replace("_", " "))
        yield Badge(text=f"{run.name}: {label}{times}", target="runs", detail=found[0])


def _plot(number: int, table: ScoreTable, systems: Sequence[ReportedSystem], most_blind: int | None) -> IntervalPlot:
    rows = [
        PlotRow(
            name=name, place=place, cell=cell, at=_percent(cell.value), low=_percent(cell.low), high=_percent(cell.high)
        )
        for (name, place), cell in zip(table.systems, table.headline.cells, strict=True)
    ]
    found = {
        f"{system.name} (first seed)" if len(system.predictions[table.test]) > 1 else system.name: one
        for system, one in first_predictions(table, systems)
    }
    blind = {name: one.blind[table.task] for name, one in found.items() if table.task in one.blind}
    fitted = next(iter(blind.values()), None)
    if fitted is not None:
        rows += [_blind_row(one, table.headline.name) for one in fitted.baselines[:most_blind]]
    notes = dict.fromkeys(one.blind_note for one in found.values() if one.blind_note)
    coverage = next((cell.coverage for cell in table.headline.cells if cell.coverage), "")
    return IntervalPlot(
        number=number,
        test=table.test,
        metric=label_of(table.headline.name),
        facts=f"{coverage} questions"
        if coverage
        else next(fact for fact in table.facts if fact.endswith(("question", "questions"))),
        rows=tuple(rows),
        best_blind=None if fitted is None else _percent(fitted.best.values[fitted.metric]),
        verdicts=tuple(_verdicts(blind)),
        note="" if fitted is not None else "; ".join(notes),
    )


def _blind_row(baseline: BlindBaseline, metric: str) -> PlotRow:
    cell = blind_cell(baseline, metric)
    return PlotRow(
        name=baseline.name,
        place=None,
        cell=cell,
        at=_percent(cell.value),
        low=_percent(cell.low),
        high=_percent(cell.high),
    )


def _verdicts(blind: Mapping[str, BlindScores]) -> Iterator[str]:
    """Yield a sentence for each verdict that some systems share, unless they are above the best blind baseline.

    A better value without a confidence interval has no verdict: none was requested, or there is one image.
    """
    by_verdict: dict[tuple[str, str], list[str]] = {}
    for name, found in blind.items():
        is_unknown = found.difference.interval is None and found.difference.value > 0
        if found.verdict != "above" and not is_unknown:
            by_verdict.setdefault((found.verdict, found.best.name), []).append(name)
    for (verdict, best), names in by_verdict.items():
        yield f"{', '.join(names)}: {verdict} the best blind baseline ({best})."


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * min(1.0, max(0.0, value)), 2)
