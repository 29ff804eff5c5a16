"""A comparison as one HTML page: sentences about the differences, then scores, curves, images and costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from virft.evaluation.predictions import read_predictions_card
from virft.metrics.labels import label_of
from virft.recipes.compare.runs import Compared
from virft.recipes.compare.systems import format_rates
from virft.recipes.compare.text import blind_of, plan_sentences, sentences, shown_numbers
from virft.recipes.compare.training import TrainedSystem
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
    name = system.system.title
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
    """A section about the systems if there is something to say, then one of sentences about each test."""
    if about_systems := list(plan_sentences(found)):
        yield Section(heading="Systems", body=Markup().join(map(paragraph, about_systems)))
    for test, by_pair in found.comparisons.items():
        for number, one in enumerate(next(iter(by_pair.values()))):
            blind, limits = blind_of(found, test, one.task), found.repeatability.get(test, {}).get(one.task)
            texts = sentences(
                by_pair,
                number,
                blind,
                best_sft=found.best_sft,
                limits=limits,
                without_thinking=found.without_thinking,
            )
            names = ", ".join(map(label_of, shown_numbers(one.task)))
            heading = f"Differences on {test} ({names})"
            yield Section(heading=heading, body=Markup().join(map(paragraph, texts)), is_folded=True)


def _costs(found: Compared) -> Markup:
    trained = [one for one in found.systems if one.runs]
    has_warm_start = any(one.warm_start_steps for one in trained)
    has_sampled = any(one.base_tokens for one in trained)
    rows = [
        [
            one.system.title,
            str(len(one.runs)),
            format_rates(one.learning_rates),
            ", ".join(f"{format_rates(rates)}: {score:.3f}" for rates, score in (one.tried or {}).items())
            or "not tuned",
            "" if one.validation is None else f"{one.validation:.3f}",
            str(one.steps),
            *([str(one.warm_start_steps)] if has_warm_start else []),
            *([one.samples or "all"] if has_sampled else []),
            f"{one.tokens:,}",
            *([f"{one.base_tokens:,}"] if has_sampled else []),
            duration(one.seconds),
        ]
        for one in trained
    ]
    header = [
        "",
        "seeds",
        "learning rate",
        "validation by learning rate",
        "validation",
        "steps",
        *(["of them warm start"] if has_warm_start else []),
        *(["training samples"] if has_sampled else []),
        "tokens a run",
        *(["of them base completions"] if has_sampled else []),
        "time a run",
    ]
    return html_table(header, rows)
