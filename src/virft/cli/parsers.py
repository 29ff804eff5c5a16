"""Parsers of verbs: how help is printed, and the arguments that several verbs share."""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from virft.cli import arguments
from virft.config import vllm_memory
from virft.models.built_in import BUILT_IN_NAMES
from virft.tasks import TASKS

Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"

OTHER_VERBS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("fit", "finetune"), ("train", "sft")),
    **dict.fromkeys(("rft", "rl", "ppo"), ("grpo",)),
    **dict.fromkeys(("eval", "evaluate", "evaluation", "test", "val", "benchmark"), ("eval", "predict", "score")),
    **dict.fromkeys(("infer", "inference", "generate", "detect"), ("ask", "predict")),
    **dict.fromkeys(("chat", "demo", "serve", "web", "webui", "gui"), ("app",)),
    **dict.fromkeys(("look", "show", "view", "visualize", "browse", "inspect"), ("preview",)),
    **dict.fromkeys(("convert", "import", "prepare", "dataset", "data"), ("build",)),
    **dict.fromkeys(("validate", "verify", "stats", "statistics"), ("check",)),
    **dict.fromkeys(("memory", "estimate", "cost", "vram"), ("plan",)),
    **dict.fromkeys(("settings", "setting", "options", "cfg", "schema"), ("config",)),
    **dict.fromkeys(("init", "new", "create", "start", "begin"), ("init", "quickstart")),
    **dict.fromkeys(("env", "info", "diagnose", "system"), ("doctor",)),
    **dict.fromkeys(("upload", "publish", "hub"), ("push",)),
    **dict.fromkeys(("metrics", "measure"), ("score",)),
    **dict.fromkeys(("reward", "rewards"), ("explain", "audit")),
    **dict.fromkeys(("html", "results"), ("report",)),
    **dict.fromkeys(("advice", "recommend", "suggest"), ("advise",)),
    **dict.fromkeys(("learning-curve", "scaling"), ("curve",)),
}
"""What other tools call their verbs -> the verbs here, as far as they exist."""


class HelpWithDefaults(argparse.HelpFormatter):
    """Appends the default to the help of an option, unless it says nothing: None, an empty list, or a flag.

    Lines of a description or epilog that begin with spaces are not filled again.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        is_flag = not action.option_strings or action.nargs == 0
        # a switch with a --no- form is three-valued or says its default itself
        is_flag = is_flag or isinstance(action, argparse.BooleanOptionalAction)
        if is_flag or default is None or default in ((), [], argparse.SUPPRESS):
            return action.help
        text = "%(default)s"
        if action.type is arguments.image_size:
            text = f"{default[0]}x{default[1]}"
        elif isinstance(default, tuple):
            text = ",".join(map(str, default))
        elif isinstance(default, float):
            text = f"{default:g}"
        return f"{action.help} (default: {text})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = [list(lines) for _, lines in groupby(text.split("\n"), key=lambda line: line[:1] in ("", " "))]
        verbatim = [lines[0][:1] in ("", " ") for lines in paragraphs]
        filled = [
            lines if is_verbatim else [super(HelpWithDefaults, self)._fill_text(" ".join(lines), width, indent)]
            for lines, is_verbatim in zip(paragraphs, verbatim, strict=True)
        ]
        return "\n".join(line for lines in filled for line in lines)


class Parser(argparse.ArgumentParser):
    """Suggests the nearest verb, choice or option, and makes the end of its help only when it is printed."""

    more_help: Callable[[], str] | None = None
    """Returns the text after the options."""
    _given: Sequence[str] = ()

    def format_help(self) -> str:
        """Return the help with its last part."""
        self.epilog = self.more_help() if self.more_help is not None else None
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as the base class does; the arguments are remembered for the message of an error."""
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with status 2. A misspelt option is named before one that is missing."""
        if "are required" in message:
            known = self._option_string_actions
            unknown = [word for word in self._given if word.startswith("--") and word.partition("=")[0] not in known]
            message = f"unrecognized arguments: {suggest_option(unknown[0], self)}" if unknown else message
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            command = self.prog.removeprefix("virft").strip()
            what = f"{value!r} is not a source of `virft {command}`" if command else f"{value!r} is not a verb"
            raise argparse.ArgumentError(None, f"{what}; {_suggest_verb(str(value), choices, self.prog)}")
        raise argparse.ArgumentError(
            action, did_you_mean_of(f"{value!r}", str(value), choices, f"expected one of {', '.join(choices)}")
        )


def did_you_mean_of(found: str, name: str, known: Sequence[str], otherwise: str) -> str:
    """Return a message about an unknown name: the nearest known one, and what is allowed."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"{found}; did you mean {near[0]}? {otherwise}" if near else f"{found}; {otherwise}"


def _suggest_verb(name: str, verbs: Sequence[str], prog: str) -> str:
    """Return the verbs that were probably meant, else all of them.

    >>> _suggest_verb("finetune", ["train", "sft", "score"], "virft"), _suggest_verb("cocco", ["coco"], "virft build")
    ('did you mean `virft train` or `virft sft`?', 'did you mean `virft build coco`?')
    """
    others = {other: tuple(verb for verb in meant if verb in verbs) for other, meant in OTHER_VERBS.items()}
    known = {verb: (verb,) for verb in verbs} | ({k: v for k, v in others.items() if v} if prog == "virft" else {})
    name = name.lower()
    near = [name] if name in known else difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    if not near:
        return f"expected one of {', '.join(verbs)}"
    return f"did you mean {' or '.join(f'`{prog} {verb}`' for verb in known[near[0]])}?"


def suggest_option(word: str, parser: argparse.ArgumentParser) -> str:
    """Return an unknown option with the option or setting that was probably meant, if there is one near.

    A verb that takes settings takes them as KEY=VALUE: an option such as ``--lr`` leads to its setting.
    """
    option = word.partition("=")[0].replace("_", "-")
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    # --max-tokens for --max-completion-tokens, --test-fraction for --test-frac
    near = [name for name in known if {*option[2:].split("-")} <= {*name[2:].split("-")}]
    near += [name for name in known if name.startswith(option) or option.startswith(name)]
    near += difflib.get_close_matches(option, known, n=1, cutoff=0.75)
    if near and len(option) > 4:
        return f"{word}; did you mean {near[0]}?"
    if any(action.dest == "overrides" for action in parser._actions):
        from virft.config.nearest import nearest_setting

        method, name = parser.prog.rpartition(" ")[2], option[2:].replace("-", "_")
        if setting := nearest_setting(f"{method}.{name}" if method in ("grpo", "sft") else name):
            return f"{word}; settings are written KEY=VALUE, without --: {setting}"
    return word


def add_verb(verbs: Verbs, name: str, help: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """Add the parser of a verb whose destinations are the keyword arguments of ``function``."""
    verb = add_parser(verbs, name, help)
    verb.set_defaults(function=function, verb=verb.prog.removeprefix("virft "))
    return verb


def add_parser(verbs: Verbs, name: str, help: str) -> argparse.ArgumentParser:
    """Add a parser that calls nothing itself, such as the one above several verbs."""
    description = f"{help[0].upper()}{help[1:]}."
    return verbs.add_parser(
        name, help=help, description=description, formatter_class=HelpWithDefaults, allow_abbrev=False
    )


def add_config(verb: argparse.ArgumentParser, *, example: str, sections: Sequence[str] = ()) -> None:
    """Add a TOML file and settings that override it. The help ends with the settings of ``sections``, if any."""
    verb.add_argument("config", metavar="CONFIG", type=arguments.config_file, nargs="?", help="TOML file of settings")
    verb.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        help=f"settings that override the file, or replace it, such as {example}",
    )
    if sections and isinstance(verb, Parser):
        verb.more_help = partial(_settings_help, sections)


def _settings_help(names: Sequence[str]) -> str:
    """Return the settings of sections for the end of a verb's help: those to change first, then the names of all."""
    from virft.config.describe import FIRST, first_settings, setting_names

    width = shutil.get_terminal_size().columns - 2
    first = first_settings([key for key in FIRST if key.partition(".")[0] in names], width=width)
    return "\n\n".join([first, setting_names(names, width=width)])


def add_data(verb: argparse.ArgumentParser, help: str = "dataset folder made by `virft build`") -> None:
    """Add the folder of a dataset."""
    verb.add_argument("data", metavar="DATA", type=Path, help=help)


def add_resume(verb: argparse.ArgumentParser, what: str) -> None:
    """Add ``--resume`` of ``what``, such as "a run" or "predictions"."""
    was = "were" if what.endswith("s") else "was"
    verb.add_argument("--resume", action="store_true", help=f"resume {what} that {was} interrupted")


def add_model(verb: argparse.ArgumentParser) -> None:
    """Add the model that is loaded."""
    help = f"{BUILT_IN_NAMES}, a run folder (its best model), a model folder, or a Hugging Face hub id"
    verb.add_argument("model", metavar="MODEL", help=help)


def add_precision(verb: argparse.ArgumentParser) -> None:
    """Add the precision that the model is loaded in, and 4 bits: three-valued, None for those of the training."""
    verb.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision of weights and computation; auto: as the model was trained, for other models bfloat16 on a GPU "
        "that supports it, else float32",
    )
    verb.add_argument(
        "--load-in-4bit",
        action=argparse.BooleanOptionalAction,
        help="load the language model in 4 bits (NF4; needs the extra quant), or not (default: as the model was "
        "trained, else not)",
    )


def add_class_notes(verb: argparse.ArgumentParser, use: str = "") -> None:
    """Add the file of class instructions; ``use``: the end of the help text."""
    verb.add_argument(
        "--class-notes",
        type=Path,
        metavar="FILE",
        help='class instructions for the prompts: JSON file {class: text}, or TOML file (.toml) of class = "text"'
        + use,
    )


def add_engine(verb: argparse.ArgumentParser) -> None:
    """Add the inference engine and its memory; named and limited as the settings ``sampling.*``."""
    verb.add_argument(
        "--engine",
        choices=("builtin", "vllm"),
        default="builtin",
        help="inference engine: builtin, or vllm (needs the extra vllm, see docs/vllm.md)",
    )
    verb.add_argument(
        "--vllm-gpu-memory",
        type=arguments.number(float, above=0, at_most=vllm_memory.MAX_FRAC),
        metavar="FRACTION",
        help="with --engine vllm: fraction of the accelerator's memory for vLLM (default: "
        f"{vllm_memory.DEFAULT_FRAC:g}). On a CPU vLLM always takes 1 GiB for its KV cache",
    )


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


def add_skip_refused(verb: argparse.ArgumentParser) -> None:
    """Add the switch for samples that a model refuses."""
    verb.add_argument(
        "--skip-refused",
        action="store_true",
        help="predict without the samples whose prompt the model refuses, such as images of extreme aspect ratio; the "
        "card names them, and every score has the coverage in its name",
    )


def add_task(
    verb: argparse._ActionsContainer,
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


def add_blind_data(verb: argparse.ArgumentParser) -> None:
    """Add the training data that blind baselines are fitted on."""
    verb.add_argument(
        "--train",
        type=Path,
        metavar="DATA",
        help="training dataset that the blind baselines (such as the mean box) are fitted on; never the test set "
        "(default: that of the model's run, else the folder `train` next to the dataset)",
    )


def add_all(verb: argparse.ArgumentParser) -> None:
    """Add the switch that prints every score."""
    verb.add_argument(
        "--all", dest="show_all", action="store_true", help="print all scores, not only the headline metrics"
    )
