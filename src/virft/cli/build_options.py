"""Arguments that all sources of ``virft build`` share, and the log and summary of a build."""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from virft import __version__
from virft.cli import arguments
from virft.recipes.build_options import Cards, count_lines, next_lines, problem_lines


def report_build(cards: Cards) -> Cards:
    """Log the command next to each dataset, print what was built, and return the cards.

    Command and date go into ``build.log``, so that cards of equal builds are equal.
    """
    line = f"{datetime.now(UTC).isoformat(timespec='seconds')}  virft {__version__}  {shlex.join(sys.argv)}\n"
    for folder in cards:
        (Path(folder) / "build.log").write_text(line, encoding="utf-8", errors="surrogateescape")
    print("\n".join([*count_lines(cards), *problem_lines(cards), *next_lines(cards)]))
    return cards


def add_options(verb: argparse.ArgumentParser, *, can_link: bool = True) -> None:
    """Add the fields of ``BuildOptions``; images that are not files cannot be linked."""
    verb.add_argument(
        "--test-frac",
        type=arguments.fraction,
        metavar="F",
        default=0.0,
        help="fraction of images held out in OUT/test; 0 makes no test split",
    )
    verb.add_argument(
        "--validation-frac",
        type=arguments.fraction,
        metavar="F",
        default=0.0,
        help="fraction of images held out in OUT/validation, none of the test split; 0 makes no validation split",
    )
    verb.add_argument(
        "--seed",
        type=arguments.not_negative,
        metavar="N",
        default=0,
        help="random seed of split, few-shot selection and absent classes",
    )
    verb.add_argument(
        "--strict", action="store_true", help="stop at the first invalid record; without it, invalid ones are skipped"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a dataset that exists")
    verb.add_argument("--licence", help="licence of the images, recorded in card.json")
    if can_link:
        verb.add_argument("--link", action="store_true", help="link images instead of copying them")
