"""Verb ``eval``: base and trained model of a run on one dataset. Imports are inside: help needs none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virft.cli import arguments
from virft.cli.output import progress_bar, say
from virft.cli.parsers import (
    Verbs,
    add_blind_data,
    add_data,
    add_intervals,
    add_precision,
    add_resume,
    add_skip_refused,
    add_verb,
)

if TYPE_CHECKING:
    from virft.config.schema import Dtype


def add_eval(verbs: Verbs) -> None:
    """Add the parser of ``eval``."""
    verb = add_verb(verbs, "eval", "evaluate a run against its base and blind baselines", eval_run)
    verb.add_argument(
        "run",
        metavar="RUN",
        type=Path,
        help="folder of a finished run, or `model` or `best` in it (default: best, if it exists)",
    )
    add_data(verb)
    verb.add_argument(
        "--limit", type=arguments.positive, metavar="N", help="predict only the first N samples (default: all)"
    )
    add_skip_refused(verb)
    add_resume(verb, "predictions")
    add_blind_data(verb)
    verb.add_argument(
        "--no-base", dest="base", action="store_false", help="do not predict with the model that the run started from"
    )
    verb.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="MODEL",
        help="also evaluate another form of the trained model, and compare it with the trained model: a model folder, "
        "such as a merged one, or `4bit` for the trained model in 4 bits (NF4; needs the extra quant); repeat for more",
    )
    add_intervals(verb)
    add_precision(verb)


def eval_run(
    *,
    run: Path,
    data: Path,
    limit: int | None = None,
    skip_refused: bool = False,
    resume: bool = False,
    train: Path | None = None,
    base: bool = True,
    also: Sequence[str] = (),
    intervals: bool = True,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
) -> None:
    """Predict with the base and the trained model of a run, score both, compare them and write the report.

    Complete predictions with the same settings are used again. ``skip_refused``: as for ``predict``. ``train``:
    training data of the blind baselines. ``also``: other forms of the trained model. ``dtype`` and ``load_in_4bit``:
    precision of base and trained model, as for ``virft.load``.
    """
    from virft.recipes.run_evaluation import evaluate_run, run_evaluation_lines

    found = evaluate_run(
        run,
        data,
        train=train,
        limit=limit,
        skip_refused=skip_refused,
        resume=resume,
        with_intervals=intervals,
        with_base=base,
        dtype=dtype,
        load_in_4bit=load_in_4bit,
        also=also,
        log=say,
        progress=progress_bar,
    )
    say("\n".join(run_evaluation_lines(found)))
