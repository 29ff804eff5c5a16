"""The command line: parse the arguments, call the function of the verb, turn its errors into an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from virft.cli import (
    advise,
    ask,
    build,
    compare,
    completion,
    data,
    doctor,
    eval_run,
    evaluate,
    init,
    publish,
    report,
    settings,
    train,
)
from virft.cli.parsers import HelpWithDefaults, Parser, Verbs, suggest_option
from virft.errors import CheckFailed, ConfigError, PartlyDone, RunStopped, VirftError
from virft.files import writing_to
from virft.origin import version_and_commit

EXIT_NOT_ALL_WELL = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_DISTRIBUTED_VERBS = ("train", "grpo", "sft", "predict", "presence")
"""Verbs that several processes of a launcher run together."""

_STAGES: Mapping[str, Sequence[Callable[[Verbs], None]]] = {
    "begin": (doctor.add_quickstart, doctor.add_doctor),
    "data": (build.add_build, data.add_check, data.add_preview, data.add_export),
    "train": (
        advise.add_advise,
        init.add_init,
        train.add_train,
        train.add_grpo,
        train.add_sft,
        train.add_plan,
        compare.add_compare,
        advise.add_curve,
    ),
    "evaluate": (
        eval_run.add_eval,
        evaluate.add_predict,
        evaluate.add_score,
        evaluate.add_presence,
        report.add_report,
    ),
    "reward": (evaluate.add_explain, evaluate.add_audit),
    "ask": (ask.add_ask, ask.add_app),
    "share": (publish.add_merge, publish.add_push),
    "settings": (settings.add_config_verb, completion.add_completion),
}
"""Functions that add the parsers of the verbs, by stage, in the order of the help."""

_FIRST_COMMANDS = (
    ("virft quickstart", "train the built-in model and see a report, in minutes on a CPU"),
    ("virft build coco annotations.json images data/mine --test-frac 0.2", "a dataset of your images"),
    ("virft init --data data/mine", "write mine.toml, a config that fits; then: virft train mine.toml"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status. A user's error is printed as one message, without a traceback."""
    given = parse_arguments(argv)
    verb, function = given.pop("verb"), given.pop("function")
    try:
        _require_distributed(verb, dry_run=given.get("dry_run", False))
        with writing_to(given.get("out")):
            function(**given)
        _leave_launcher()
    except RunStopped as stopped:
        _leave_launcher()
        if not _rank():
            _print_error(stopped)
        return EXIT_INTERRUPTED
    except (PartlyDone, CheckFailed) as error:
        _print_error(error)
        return EXIT_NOT_ALL_WELL
    except VirftError as error:
        _print_error(error)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        # the reader of a pipe has seen enough, as in `virft config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NOT_ALL_WELL
    except KeyboardInterrupt:
        _print_error("interrupted")
        return EXIT_INTERRUPTED
    return 0


def run() -> NoReturn:
    """Run ``main`` as a program.

    A process of a launcher ends immediately, without the interpreter's clean-up: a thread of gloo may release its last
    tensor only then, which aborts a process whose work is done, and with it the run.
    """
    status = main()
    if _is_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _rank() -> int:
    """Return the rank of this process; 0 without a launcher."""
    return int(os.environ.get("RANK", 0)) if _is_launched() else 0


def _is_launched() -> bool:
    return "LOCAL_RANK" in os.environ


def _leave_launcher() -> None:
    """Leave the process group after an end that all processes reach; after an error the launcher ends the others."""
    if _is_launched():
        from virft.training.distributed import leave_processes

        leave_processes()


def _print_error(error: object) -> None:
    """Print to standard error, with the rank of any process but the first: it may be the only one that knows."""
    print(f"virft (process {_rank()}): {error}" if _rank() else f"virft: {error}", file=sys.stderr)


def _require_distributed(verb: str, *, dry_run: bool) -> None:
    """Raise ``ConfigError`` if a launcher started several processes for a verb of one process."""
    num_processes = int(os.environ.get("WORLD_SIZE", 1)) if _is_launched() else 1
    if num_processes > 1 and (dry_run or verb not in _DISTRIBUTED_VERBS):
        command = f"{verb} --dry-run" if dry_run else verb
        raise ConfigError(
            f"virft {command} runs in one process, and {num_processes} were started; "
            f"expected no launcher, or one of {', '.join(_DISTRIBUTED_VERBS)}"
        )


def parse_arguments(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Return ``verb``, ``function`` and the keyword arguments of it.

    ``key=value`` may also follow an option, which argparse alone does not allow, and may replace the TOML file.
    """
    parser = make_parser()
    parsed, rest = parser.parse_known_args(argv)
    verb = find_parser(parser, parsed.verb.split())
    if unknown := [word for word in rest if word.startswith("-")]:
        verb.error(f"unrecognized arguments: {', '.join(suggest_option(word, verb) for word in unknown)}")
    if hasattr(parsed, "overrides"):
        _sort_settings(parsed, rest, verb)
    elif hasattr(parsed, "settings") and all("=" in word for word in rest):
        parsed.settings = [*parsed.settings, *rest]
    elif rest:
        verb.error(f"unrecognized arguments: {' '.join(rest)}")
    return vars(parsed)


def _sort_settings(parsed: argparse.Namespace, rest: Sequence[str], verb: argparse.ArgumentParser) -> None:
    """Put the TOML file, if there is one, into ``config`` and the settings into ``overrides``, wherever they are."""
    words = [*parsed.overrides, *rest]
    if isinstance(parsed.config, str):
        words = [parsed.config, *words]
        parsed.config = None
    if parsed.config is None and (files := [word for word in words if "=" not in word]):
        words.remove(files[0])
        parsed.config = Path(files[0])
    parsed.overrides = words
    named = any(getattr(parsed, name, None) for name in ("from_run", "model"))
    if parsed.config is None and not words and parsed.verb != "doctor" and not named:
        verb.error("expected a TOML file of settings, or settings such as data.train=data/mine/train run.dir=runs/mine")


class _Version(argparse.Action):
    """Looks up the commit only if the version is requested: in a checkout that runs git."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"virft {version_and_commit()}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = Parser(
        prog="virft",
        usage="virft [-h] [--version] VERB ...",
        description="Fine-tune vision-language models by GRPO with rule-based visual rewards.",
        formatter_class=HelpWithDefaults,
    )
    help = "print version and commit, and exit"
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help=help)
    # the verbs are listed by stage in the description, not by argparse
    verbs = parser.add_subparsers(
        prog="virft", metavar="VERB", required=True, help=argparse.SUPPRESS, parser_class=Parser
    )
    stages: dict[str, list[str]] = {}
    for stage, adders in _STAGES.items():
        before = set(verbs.choices)
        for add in adders:
            add(verbs)
        stages[stage] = [name for name in verbs.choices if name not in before]
    parser.more_help = partial(_verbs_help, stages, verbs)
    return parser


def _verbs_help(stages: Mapping[str, Sequence[str]], verbs: Verbs) -> str:
    """Return the verbs by stage, a line for each, and the first commands."""
    lines = ["verbs (`virft VERB --help` has the arguments of one):"]
    for stage, names in stages.items():
        for i, name in enumerate(names):
            about = (verbs.choices[name].description or "").rstrip(".")
            lines.append(f"  {stage if i == 0 else '':10}{name:12}{about[0].lower()}{about[1:]}")
    lines += ["", "first commands:"]
    lines += [line for command, why in _FIRST_COMMANDS for line in (f"  {command}", f"      {why}")]
    return "\n".join(lines)


def find_parser(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a verb, or of a verb and its source; the last one on the way for an unknown word."""
    for word in words:
        subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not subs or word not in subs[0].choices:
            break
        parser = subs[0].choices[word]
    return parser
