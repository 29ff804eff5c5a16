"""Verb ``report``: runs and predictions as one HTML page. Imports are inside: help needs none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virft.cli import arguments
from virft.cli.output import say
from virft.cli.parsers import Verbs, add_intervals, add_verb
from virft.report import REPORT


def add_report(verbs: Verbs) -> None:
    """Add the parser of ``report``."""
    verb = add_verb(verbs, "report", "write an HTML page of runs: scores, curves, images", report)
    verb.add_argument(
        "folders",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="run folders, and folders of predictions, such as those of the base model",
    )
    verb.add_argument("--out", type=Path, help=f"output file (default: {REPORT} in the first run)")
    verb.add_argument(
        "--images",
        dest="num_images",
        type=arguments.number(int, at_least=0, at_most=200),
        default=40,
        metavar="N",
        help="number of questions shown with their image, at most 200",
    )
    add_intervals(verb)


def report(*, folders: Sequence[Path], out: Path | None = None, num_images: int = 40, intervals: bool = True) -> None:
    """Write one HTML page about run folders and folders of predictions.

    Without ``out`` the page is written into the first run, or into the current folder if there is none: a folder of
    predictions may hold only files that ``predict`` knows.
    """
    from virft.report.read import report_folders
    from virft.report.read.runs import is_run

    html = report_folders(folders, num_images=num_images, with_intervals=intervals)
    page = out or next(filter(is_run, folders), Path()) / REPORT
    page = page / REPORT if page.is_dir() else page
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8", errors="backslashreplace")
    say(f"{page}: {len(html.encode(errors='replace')) / 1e6:.1f} MB")
