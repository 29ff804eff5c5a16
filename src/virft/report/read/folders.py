"""Folders of runs and predictions as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virft.report.read.systems import read_systems, short_names
from virft.report.render.run_page import NUM_PICTURES, render_run_page


def report_folders(
    places: Sequence[Path], *, num_pictures: int = NUM_PICTURES, with_intervals: bool = True, title: str | None = None
) -> str:
    """The page about run folders and folders of predictions, in any order, called by their names without a title."""
    systems, notes = read_systems(places, with_intervals=with_intervals)
    return render_run_page(
        systems, title=title or ", ".join(short_names(places)), notes=notes, num_pictures=num_pictures
    )
