"""The command line: parse the arguments, call the function of the verb, turn its errors into an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from virft.cli import ask, build, compare, data, doctor, evaluate, init, publish, report, train
from virft.errors import CheckFailed, ConfigError, PartlyDone, RunStopped, VirftError
from virft.origin import version_and_commit

EXIT_NOT_ALL_WELL = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_DISTRIBUTED_VERBS = ("grpo", "sft", "predict", "presence")
"""Verbs that several processes of a launcher run together."""

_VERBS = (
    doctor.add_quickstart,
    doctor.add_doctor,
    build.add_build,
    data.add_check,
    data.add_preview,
    data.add_export,
    init.add_init,
    train.add_grpo,
    train.add_sft,
    train.add_plan,
    compare.add_compare,
    evaluate.add_audit,
    evaluate.add_predict,
    evaluate.add_presence,
    evaluate.add_score,
    report.add_report,
    evaluate.add_explain,
    ask.add_ask,
    ask.add_app,
    publish.add_merge,
    publish.add_push,
)
"""Functions that add the parsers, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status. A user's error is printed as one message, without a traceback."""
    given = parse_arguments(argv)
    verb, function = given.pop("verb"), given.pop("function")
    try:
        _require_distributed(verb, dry_run=given.get("dry_run", False))
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

    ``key=value`` may also follow an option, which argparse alone does not allow.
    """
    parser = make_parser()
    parsed, rest = parser.parse_known_args(argv)
    if hasattr(parsed, "overrides"):
        parsed.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return vars(parsed)


class _Version(argparse.Action):
    """Looks up the commit only if the version is requested: in a checkout that runs git."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"virft {version_and_commit()}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="virft", description="Fine-tune vision-language models by GRPO with rule-based visual rewards."
    )
    help = "print version and commit, and exit"
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help=help)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in _VERBS:
        add(verbs)
    return parser
