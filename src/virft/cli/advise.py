"""Verbs ``advise`` and ``curve``: advice before training, and the learning curve after it.

Imports are inside the functions: help needs none of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virft.cli import arguments
from virft.cli.output import resolve_model, say
from virft.cli.parsers import Verbs, add_config, add_data, add_model, add_resume, add_verb

if TYPE_CHECKING:
    from virft.config.schema import Method

_NUM_SAMPLES = 64


def add_advise(verbs: Verbs) -> None:
    """Add the parser of ``advise``."""
    verb = add_verb(verbs, "advise", "advise SFT, RFT or a mix, before training", advise)
    add_data(verb, "training dataset, or the folder of a build with a split")
    add_model(verb)
    verb.add_argument(
        "settings",
        metavar="KEY=VALUE",
        nargs="*",
        default=[],
        help="settings of the completions and of the advised config, such as prompt.thinking=true, reward.preset=paper "
        "or seed=1",
    )
    verb.add_argument(
        "--samples",
        type=arguments.positive,
        metavar="N",
        default=_NUM_SAMPLES,
        help="maximum number of training samples to evaluate, evenly over the classes; each gets grpo.group_size "
        "completions",
    )
    verb.add_argument("--out", type=Path, metavar="TOML", help="write the advised config into this file")
    verb.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    verb.add_argument("--json", dest="as_json", action="store_true", help="print everything as one JSON object")


def advise(
    *,
    data: Path,
    model: str,
    settings: Sequence[str] = (),
    samples: int = _NUM_SAMPLES,
    out: Path | None = None,
    overwrite: bool = False,
    as_json: bool = False,
) -> None:
    """Print features of the base model on training data, and the advised training with its settings.

    Raises ``ConfigError`` if ``out`` exists, or for an invalid setting; ``DataError`` and ``ModelError`` for data and
    models that cannot be used.
    """
    import sys

    from virft.errors import ConfigError
    from virft.files import make_folder, write_text
    from virft.recipes.advice.advise import advise_training
    from virft.recipes.advice.text import advice_lines, advice_tree

    if out is not None and out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists; replace it with --overwrite, or choose another file")

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    found = advise_training(
        data,
        resolve_model(model),
        settings,
        num_samples=samples,
        config_name=None if out is None else str(out),
        log=log,
    )
    if as_json:
        print(json.dumps(advice_tree(found), indent=2, ensure_ascii=False))
    else:
        say("\n".join(advice_lines(found)))
    if out is not None and found.plan.lines:
        make_folder(out.parent)
        write_text(out, found.plan.toml)
        log(f"wrote {out}")


def add_curve(verbs: Verbs) -> None:
    """Add the parser of ``curve``."""
    verb = add_verb(verbs, "curve", "measure the learning curve: the score with more images", measure_curve)
    add_config(verb, example="grpo.steps=40", sections=("data", "model", "grpo", "sft", "sampling", "reward", "run"))
    verb.add_argument(
        "--method", choices=("grpo", "sft"), help="training method (default: grpo, or that of the curve to resume)"
    )
    verb.add_argument(
        "--fractions",
        type=_fractions,
        metavar="A,B",
        help="fractions of the training images to train on, each with the same number of steps; all images are always "
        "added (default: 0.25,0.5, or those of the curve to resume)",
    )
    verb.add_argument(
        "--seeds",
        type=arguments.positive,
        metavar="N",
        help="training runs for each number of images; with 1, the interval is too narrow (default: 1, or those of the "
        "curve to resume)",
    )
    add_resume(verb, "a learning curve")


def measure_curve(
    *,
    config: Path | None,
    overrides: Sequence[str] = (),
    method: Method | None = None,
    fractions: Sequence[float] | None = None,
    seeds: int | None = None,
    resume: bool = False,
) -> None:
    """Train on nested subsets of the training images, print validation scores and the score with twice the images.

    Options that are None have the values of the curve that is resumed, or their defaults.
    """
    from virft.recipes.fitting import load_fitted_config
    from virft.recipes.learning_curve import CURVE, RESULT, CurveOptions, curve_lines, run_curve, saved_options

    saved = CURVE if resume else None
    loaded = load_fitted_config(config, overrides, method=method or "grpo", saved=saved)
    before = saved_options(Path(loaded.config.run.dir)) if resume else CurveOptions()
    options = CurveOptions(method or before.method, tuple(fractions or before.fractions), seeds or before.seeds)
    if options.method == "sft":
        loaded = load_fitted_config(config, overrides, method="sft", saved=saved)
    found = run_curve(
        loaded.config, options.method, fractions=options.fractions, seeds=options.seeds, resume=resume, log=say
    )

    from virft.recipes.learning_curve_page import curve_page
    from virft.report import REPORT

    folder = Path(loaded.config.run.dir)
    page = folder / REPORT
    page.write_text(curve_page(found, folder), encoding="utf-8", errors="backslashreplace")
    say("\n".join(curve_lines(found)))
    say(f"all numbers: {folder / RESULT}; report: {page}")


def _fractions(text: str) -> tuple[float, ...]:
    """Return comma-separated fractions; ``ArgumentTypeError`` for one that is not above 0 and at most 1.

    >>> _fractions("0.25,1")
    (0.25, 1.0)
    """
    names = arguments.names(text)
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r}; expected fractions such as 0.25,0.5,1")
    return tuple(arguments.number(float, above=0, at_most=1)(name) for name in names)
