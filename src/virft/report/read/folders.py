"""Render run folders and prediction folders as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virft.report.read.runs import is_run
from virft.report.read.systems import read_systems, short_names
from virft.report.render.run_page import NUM_IMAGES, render_run_page


def report_folders(
    places: Sequence[Path], *, num_images: int = NUM_IMAGES, with_intervals: bool = True, title: str | None = None
) -> str:
    """Return the HTML page of run folders and prediction folders, in any order.

    ``num_images``: maximum number of questions shown with their image. ``title``: default, the short names of the runs,
    or of all folders if none is a run.
    """
    systems, notes = read_systems(places, with_intervals=with_intervals)
    named = [place for place in places if is_run(place)] or places
    return render_run_page(systems, title=title or ", ".join(short_names(named)), notes=notes, num_images=num_images)
