"""A comparison as one HTML page: sentences about the differences, then scores, curves, images and costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from virft.evaluation.predictions import read_predictions_card
from virft.metrics.labels import label_of
from virft.recipes.compare.runs import SYSTEM_NAMES, Compared, TrainedSystem
from virft.recipes.compare.text import blind_of, sentences, shown_numbers
from virft.report.read import read_reported_predictions, read_run
from virft.report.read.predictions import FittedBlind
from virft.report.render.page import html_table, paragraph
from virft.report.render.reported import ReportedSystem, Section
from virft.report.render.run_page import render_run_page
from virft.training.progress import duration


def compare_page(found: Compared, *, title: str, intro: str, sections: Sequence[Section] = ()) -> str:
    """The page as HTML; ``sections`` come before its own."""
    run = next((run for system in found.systems for run in system.runs), None)
    fitted: FittedBlind = {}
    return render_run_page(
        [_reported(system, found.predictions[system.name], run, fitted) for system in found.systems],
        title=title,
        intro=intro,
        sections=[*sections, *_shown(found), Section(heading="Cost", body=_costs(found))],
    )


def _reported(
    system: TrainedSystem, predictions: Mapping[str, tuple[Path, ...]], run: Path | None, fitted: FittedBlind
) -> ReportedSystem:
    """``run``: its training data are those of all systems, also of the base model."""
    name = SYSTEM_NAMES[system.name]
    return ReportedSystem(
        name=name,
        runs=tuple(read_run(run, name=f"{name}, {run.name.rpartition('_seed_')[2]}") for run in system.runs),
        predictions={
            test: tuple(
                read_reported_predictions(
                    path.parent, read_predictions_card(path), near=path.parent, run=run, fitted=fitted
                )
                for path in paths
            )
            for test, paths in predictions.items()
        },
    )


def _shown(found: Compared) -> Iterator[Section]:
    """A section of sentences about each test."""
    for test, by_pair in found.comparisons.items():
        for number, one in enumerate(next(iter(by_pair.values()))):
            body = Markup().join(
                paragraph(text) for text in sentences(by_pair, number, blind_of(found, test, one.task))
            )
            names = ", ".join(map(label_of, shown_numbers(one.task)))
            yield Section(heading=f"Differences on {test} ({names})", body=body, is_folded=True)


def _costs(found: Compared) -> Markup:
    rows = [
        [
            SYSTEM_NAMES[one.name],
            str(len(one.runs)),
            f"{one.learning_rate:g}",
            ", ".join(f"{rate:g}: {score:.3f}" for rate, score in (one.tried or {}).items()) or "not tuned",
            str(one.steps),
            f"{one.tokens:,}",
            duration(one.seconds),
        ]
        for one in found.systems
        if one.runs
    ]
    header = ["", "seeds", "learning rate", "validation by learning rate", "steps", "tokens a run", "time a run"]
    return html_table(header, rows)
