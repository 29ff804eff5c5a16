"""Runs and what their models answered, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from virft.report.render.curves import chart_groups
from virft.report.render.page import render
from virft.report.render.page_images import PagePictures
from virft.report.render.reported import ReportedSystem, Section
from virft.report.render.run_cards import run_card_views, settings_that_differ
from virft.report.render.score_tables import names_of_tests, score_tables
from virft.report.render.shown_groups import shown_rollouts
from virft.report.render.shown_questions import shown_tests
from virft.tasks import TASKS

NUM_PICTURES = 40


def render_run_page(
    systems: Sequence[ReportedSystem],
    *,
    title: str,
    intro: str = "",
    sections: Sequence[Section] = (),
    notes: Sequence[str] = (),
    num_pictures: int = NUM_PICTURES,
) -> str:
    """Scores, curves, pictures, groups of answers, cards.

    Everything is compared with the first system. ``sections`` stand at the top, ``notes`` (what was not found, why
    numbers must not be compared) below them. At most ``num_pictures`` questions are shown in pictures.
    """
    pictures = PagePictures()
    runs = [run for system in systems for run in system.runs]
    tables = score_tables(systems)
    return render(
        "run_page.html.jinja",
        title=title,
        intro=intro,
        sections=sections,
        notes=notes,
        systems=systems,
        trained=[(place, system) for place, system in enumerate(systems) if system.runs],
        tables=tables,
        missing_scores=_missing_scores(systems),
        charts=chart_groups(systems),
        tests=shown_tests(systems, pictures, number=num_pictures) if names_of_tests(systems) else [],
        rollouts=[shown_rollouts(run, pictures) for run in runs if run.trainer != "sft"],
        cards=run_card_views(systems),
        scores_of_answers=", ".join(f"{task.score_description} ({task.name})" for task in TASKS.values()),
        differing=settings_that_differ(runs) if len(runs) > 1 else [],
        runs=runs,
        pictures=pictures,
    )


def _missing_scores(systems: Sequence[ReportedSystem]) -> list[str]:
    """Answers that could not be scored, in words."""
    return [
        f"{system.name} on {test}: {one.problem}"
        for test in names_of_tests(systems)
        for system in systems
        for one in system.answers.get(test, ())
        if not one.scores and one.problem
    ]
