"""Arguments that several sources of ``virft build`` share, and the log and summary of a build."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

from virft import __version__
from virft.cli import arguments
from virft.cli.parsers import Verbs, add_class_notes, add_task, add_verb
from virft.recipes.build_options import BuildOptions, Cards, count_lines, next_lines, problem_lines
from virft.tasks import TASKS

_TASKS_FROM_BOXES = [task.name for task in TASKS.values() if task.is_from_boxes]
FROM_BOXES = ", ".join(_TASKS_FROM_BOXES)
"""Names of the tasks that the boxes of classes determine."""


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


def add_source(sources: Verbs, name: str, help: str, build: Callable[..., Cards]) -> argparse.ArgumentParser:
    """Add the parser of a source. Arguments that are fields of ``BuildOptions`` reach ``build`` as its ``options``."""

    @wraps(build)
    def build_with_options(**given: Any) -> Cards:
        options = {field.name: given.pop(field.name) for field in fields(BuildOptions) if field.name in given}
        return report_build(build(options=BuildOptions(**options), **given))

    return add_verb(sources, name, help, build_with_options)


def add_out(verb: argparse.ArgumentParser) -> None:
    """Add the folder of the dataset."""
    verb.add_argument(
        "out", metavar="OUT", type=Path, help="dataset folder; with a split, the folder of train, validation and test"
    )


def add_images(verb: argparse.ArgumentParser) -> None:
    """Add the folder of the images."""
    verb.add_argument("images", metavar="IMAGES", type=Path, help="folder of the images")


def add_negatives(verb: argparse.ArgumentParser, *, default: float | None) -> None:
    """Add the fraction of questions about absent classes; ``default`` None: 0.3."""
    verb.add_argument(
        "--negatives-frac",
        type=arguments.fraction,
        metavar="F",
        default=default,
        help="fraction of questions about a class that the image does not show"
        + ("" if default is not None else " (default: 0.3)"),
    )


def add_exif(verb: argparse.ArgumentParser) -> None:
    """Add the reading of boxes of images with an EXIF orientation."""
    verb.add_argument(
        "--exif",
        choices=("auto", "raw", "upright"),
        default="auto",
        help="pixels that the boxes of images with an EXIF orientation are in: of the stored image, or of the upright "
        "one; auto decides by the stated sizes, and by what all boxes fit",
    )


def add_detection_arguments(verb: argparse.ArgumentParser, *, has_outlines: bool = False) -> None:
    """Add the arguments of sources with the boxes of classes; ``has_outlines``: the source may have polygons."""
    add_out(verb)
    verb.add_argument(
        "--classes",
        type=arguments.names,
        default=(),
        metavar="A,B",
        help="class names, or @coco-8, @coco-base-65, @coco-novel-15, @lvis-6, @lvis-rare-13 (default: all)",
    )
    tasks = verb.add_mutually_exclusive_group()
    add_task(
        tasks,
        choices=_TASKS_FROM_BOXES,
        help="task of the questions, one for each class of an image; multiclass_detection: one for each image",
    )
    tasks.add_argument(
        "--per-image",
        dest="task",
        action="store_const",
        const="multiclass_detection",
        default="detection",
        help="one question about all classes of an image, like --task multiclass_detection",
    )
    verb.add_argument(
        "--max-classes-per-question",
        type=arguments.positive,
        metavar="K",
        help="with --per-image: list at most K classes, present ones first, then drawn absent ones (default: all)",
    )
    verb.add_argument(
        "--shots", type=arguments.positive, metavar="K", help="few-shot: K questions per class (default: all)"
    )
    add_negatives(verb, default=0.0)
    if has_outlines:
        verb.add_argument(
            "--outlines",
            action="store_true",
            help="detection: store the polygons of objects, for reward.segmenter and virft score --masks (pointing "
            "always has them)",
        )
    add_class_notes(verb)
    add_options(verb)


def add_label_arguments(verb: argparse.ArgumentParser) -> None:
    """Add the arguments of sources with a class for each image."""
    add_out(verb)
    verb.add_argument("--domain", required=True, help='what the labels name, such as "aircraft"; part of the question')
    verb.add_argument("--classes", type=arguments.names, default=(), metavar="A,B", help="labels (default: all)")
    verb.add_argument(
        "--aliases", type=Path, metavar="JSON", help="JSON file {label: [other names that count as correct]}"
    )
    verb.add_argument(
        "--shots", type=arguments.positive, metavar="K", help="few-shot: K images per label (default: all)"
    )
    add_class_notes(verb)
    add_options(verb)


def add_number_of_expressions(verb: argparse.ArgumentParser) -> None:
    """Add the number of questions about expressions."""
    verb.add_argument(
        "--questions", type=arguments.positive, metavar="N", help="number of training questions (default: all)"
    )
