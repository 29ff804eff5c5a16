"""Render runs and the predictions of their models as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from virft.report.render.blind_tables import blind_table
from virft.report.render.box_details import box_details
from virft.report.render.curves import chart_groups
from virft.report.render.overview import make_overview
from virft.report.render.page import render
from virft.report.render.page_images import PageImages
from virft.report.render.reported import ReportedSystem, Section
from virft.report.render.run_cards import run_card_views, settings_that_differ
from virft.report.render.score_tables import names_of_tests, score_tables
from virft.report.render.shown_groups import shown_rollouts
from virft.report.render.shown_questions import OUTCOMES, shown_tests
from virft.tasks import TASKS

NUM_IMAGES = 40


def render_run_page(
    systems: Sequence[ReportedSystem],
    *,
    title: str,
    intro: str = "",
    sections: Sequence[Section] = (),
    notes: Sequence[str] = (),
    num_images: int = NUM_IMAGES,
) -> str:
    """Render the page: overview, scores, precision and recall, training curves, images, rollouts, run cards.

    Differences are to the first system. ``notes``: messages at the top, such as missing data or reasons not to compare
    numbers. ``sections``: the caller's own, below the notes. ``num_images``: maximum number of questions shown with
    their image.
    """
    images = PageImages()
    runs = [run for system in systems for run in system.runs]
    tables = score_tables(systems)
    tests = shown_tests(systems, images, number=num_images) if names_of_tests(systems) else []
    return render(
        "run_page.html.jinja",
        title=title,
        intro=intro,
        sections=sections,
        notes=notes,
        systems=systems,
        trained=[(place, system) for place, system in enumerate(systems) if system.runs],
        tables=tables,
        blind=[blind_table(table, systems) for table in tables],
        missing_scores=_missing_scores(systems),
        charts=chart_groups(systems),
        overview=make_overview(systems, tables, tests),
        tests=tests,
        classes=sorted({one.label for test in tests for one in test.questions if one.label}),
        outcomes=OUTCOMES,
        shown_systems=sorted(
            {(each.place, each.system) for test in tests for one in test.questions for each in one.predictions}
        ),
        boxes=box_details(systems),
        rollouts=[shown_rollouts(run, images) for run in runs if run.trainer != "sft"],
        cards=run_card_views(systems),
        prediction_scores=", ".join(f"{task.score_description} ({task.name})" for task in TASKS.values()),
        differing=settings_that_differ(runs) if len(runs) > 1 else [],
        runs=runs,
        images=images,
    )


def _missing_scores(systems: Sequence[ReportedSystem]) -> list[str]:
    """List predictions that could not be scored, with the reason."""
    return [
        f"{system.name} on {test}: {one.problem}"
        for test in names_of_tests(systems)
        for system in systems
        for one in system.predictions.get(test, ())
        if not one.scores and one.problem
    ]
