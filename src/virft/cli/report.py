"""Verb ``report``: runs and predictions as one HTML page. Imports are inside: help needs none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virft.cli import arguments
from virft.cli.output import say
from virft.cli.parsers import Verbs, add_intervals, add_verb
from virft.errors import ConfigError, RunError
from virft.report import REPORT, SUSPECTS_FOLDER


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
    verb.add_argument(
        "--suspects",
        action="store_true",
        help="write a page of the suspect labels that `virft check --suspects RUN` found, instead; for one run",
    )
    add_intervals(verb)


def report(
    *,
    folders: Sequence[Path],
    out: Path | None = None,
    num_images: int = 40,
    intervals: bool = True,
    suspects: bool = False,
) -> None:
    """Write one HTML page about run folders and folders of predictions.

    With ``suspects`` the page shows the suspect labels of one run instead. Without ``out`` the page is written into the
    first run, or into the current folder if there is none: a folder of predictions may hold only files that ``predict``
    knows.
    """
    from virft.report.read import report_folders
    from virft.report.read.runs import is_run

    if suspects:
        _report_suspects(folders, out, num_images=num_images)
        return
    html = report_folders(folders, num_images=num_images, with_intervals=intervals)
    _write(out or next(filter(is_run, folders), Path()) / REPORT, html)


def _write(page: Path, html: str) -> None:
    """Write a page, into ``REPORT`` of a folder, and print its size: in kB below 0.1 MB."""
    page = page / REPORT if page.is_dir() else page
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8", errors="backslashreplace")
    size = len(html.encode(errors="replace"))
    say(f"{page}: {size / 1e6:.1f} MB" if size >= 1e5 else f"{page}: {size / 1e3:.0f} kB")


def _report_suspects(folders: Sequence[Path], out: Path | None, *, num_images: int) -> None:
    """Write the page of the suspect labels of one run, by default next to their file."""
    from virft.evaluation.suspects import SUSPECTS, read_suspects
    from virft.report.render.suspects_page import suspects_page

    if len(folders) > 1:
        raise ConfigError(f"--suspects with {len(folders)} folders; expected one run")
    run = folders[0]
    path = next((one for one in (run / SUSPECTS, run / SUSPECTS_FOLDER / SUSPECTS) if one.is_file()), None)
    if path is None:
        raise RunError(f"{run}: holds no {SUSPECTS}; expected a run after `virft check --suspects {run}`")
    html = suspects_page(read_suspects(path), title=str(run), num_images=num_images, source=str(path))
    _write(out or path.with_name(REPORT), html)
