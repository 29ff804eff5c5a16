"""Parsers of verbs: how help is printed, and the arguments that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from virft.cli import arguments
from virft.tasks import TASKS

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SETTINGS_PAGE = "https://virft.github.io/virft/config.html"


class HelpWithDefaults(argparse.HelpFormatter):
    """Appends the default to the help of an option, unless it says nothing: None, an empty list, or a flag."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        is_flag = not action.option_strings or action.nargs == 0
        if is_flag or default is None or default in ((), [], argparse.SUPPRESS):
            return action.help
        text = f"{default[0]}x{default[1]}" if action.type is arguments.image_size else "%(default)s"
        if isinstance(default, tuple) and action.type is arguments.names:
            text = ",".join(default)
        return f"{action.help} (default: {text})"


def add_verb(verbs: Verbs, name: str, help: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """Add the parser of a verb whose destinations are the keyword arguments of ``function``."""
    verb = add_parser(verbs, name, help)
    verb.set_defaults(function=function, verb=verb.prog.removeprefix("virft "))
    return verb


def add_parser(verbs: Verbs, name: str, help: str) -> argparse.ArgumentParser:
    """Add a parser that calls nothing itself, such as the one above several verbs."""
    return verbs.add_parser(name, help=help, description=help, formatter_class=HelpWithDefaults, allow_abbrev=False)


def add_config(verb: argparse.ArgumentParser, *, example: str, is_optional: bool = False) -> None:
    """Add a TOML file, which may be optional, and settings that override it."""
    number = "?" if is_optional else None
    help = f"TOML file of settings; all are on {SETTINGS_PAGE}"
    verb.add_argument("config", metavar="CONFIG", type=Path, nargs=number, help=help)
    verb.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help=f"settings that override the file, such as {example}"
    )


def add_data(verb: argparse.ArgumentParser, help: str = "dataset folder made by `virft build`") -> None:
    """Add the folder of a dataset."""
    verb.add_argument("data", metavar="DATA", type=Path, help=help)


def add_resume(verb: argparse.ArgumentParser, what: str) -> None:
    """Add ``--resume``, of a run or of something else that was interrupted."""
    verb.add_argument("--resume", action="store_true", help=f"resume {what} that was interrupted")


def add_model(verb: argparse.ArgumentParser) -> None:
    """Add the model that is loaded."""
    help = "virft-tiny, a model folder such as RUN/model, or a Hugging Face hub id"
    verb.add_argument("model", metavar="MODEL", help=help)


def add_prompting(verb: argparse.ArgumentParser) -> None:
    """Add the prompt template and the thinking mode."""
    verb.add_argument(
        "--template",
        default="auto",
        help="prompt template: paper, short, auto (the one that the model was trained with), or a text file with "
        "{query}",
    )
    add_thinking(verb)


def add_thinking(verb: argparse.ArgumentParser) -> None:
    """Add the thinking mode: three-valued, None for that of the model card."""
    verb.add_argument(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        help="prompt for a <think> block before the answer, or not (default: as the model was trained, else not)",
    )


def add_max_completion_tokens(verb: argparse.ArgumentParser, default: int) -> None:
    """Add the length at which a completion is truncated."""
    verb.add_argument(
        "--max-completion-tokens",
        type=arguments.positive,
        metavar="N",
        default=default,
        help="maximum length of a completion, in tokens; longer ones are truncated",
    )


def add_task(
    verb: argparse.ArgumentParser,
    *,
    choices: Iterable[str] = TASKS,
    required: bool = False,
    default: str | None = "detection",
    help: str = "task of the question",
) -> None:
    """Add the task, one of ``choices``, with a default if it is not required."""
    verb.add_argument(
        "--task",
        type=arguments.one_of(choices),
        choices=list(choices),
        required=required,
        default=None if required else default,
        help=help,
    )


def add_intervals(verb: argparse.ArgumentParser) -> None:
    """Add the switch that turns the bootstrap off."""
    verb.add_argument(
        "--no-intervals",
        dest="intervals",
        action="store_false",
        help="do not compute bootstrap confidence intervals (faster on large datasets)",
    )
