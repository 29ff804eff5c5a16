"""Verb ``init``: write a first config. Imports are inside the functions: help needs none of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from virft.cli import arguments
from virft.cli.output import resolve_model, say
from virft.cli.parsers import Verbs, add_verb
from virft.errors import ConfigError, VirftError
from virft.models.built_in import BUILT_IN_NAMES

if TYPE_CHECKING:
    from virft.config.fitting import TrainingVerb

_Answer = TypeVar("_Answer")


def add_init(verbs: Verbs) -> None:
    """Add the parser of ``init``."""
    verb = add_verb(verbs, "init", "write a config that fits your data, model and memory", init)
    verb.add_argument(
        "out", metavar="OUT", type=Path, nargs="?", default=Path("mine.toml"), help="TOML file (default: mine.toml)"
    )
    verb.add_argument("--data", type=Path, metavar="DIR", help="dataset, or the folder of a build with a split")
    verb.add_argument(
        "--validation",
        type=Path,
        metavar="DIR",
        help="validation dataset (default: the one next to the training dataset, if there is one)",
    )
    verb.add_argument("--model", help=f"{BUILT_IN_NAMES}, a model folder, or a Hugging Face hub id")
    verb.add_argument(
        "--memory",
        type=arguments.number(float, above=0, below=1e6, unit="GiB"),
        metavar="GIB",
        help="memory of the device in GiB, such as 24; models of over 50 million parameters need it",
    )
    group = verb.add_mutually_exclusive_group()
    for how, help in (("lora", "train LoRA adapters"), ("full", "train all weights")):
        group.add_argument(
            f"--{how}", dest="train", action="store_const", const=how, help=f"{help} (default: by size and memory)"
        )
    verb.add_argument(
        "--run-dir", metavar="DIR", help="run folder (default: runs/NAME, by the name of OUT: mine.toml, runs/mine)"
    )
    verb.add_argument("--method", choices=("train", "grpo", "sft"), default="train", help="verb that will train")
    verb.add_argument("--overwrite", action="store_true", help="replace a file that exists")


def init(
    *,
    out: Path,
    data: Path | None = None,
    validation: Path | None = None,
    model: str | None = None,
    memory: float | None = None,
    train: Literal["full", "lora"] | None = None,
    run_dir: str | None = None,
    method: TrainingVerb = "train",
    overwrite: bool = False,
) -> None:
    """Write a config of the settings that fit, each with its reason; on a terminal, prompt for what is missing.

    Raises ``ConfigError`` if the file exists, if there is no such dataset, or if the model does not fit.
    """
    from virft.config.fitting import SMALL, method_of
    from virft.files import make_folder
    from virft.models.size import read_model_size
    from virft.recipes.first_config import describe_gaps, find_datasets, first_config

    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists; replace it with --overwrite, or choose another file")
    # check the given values first: a wrong one explains more than a missing one
    folders = find_datasets(data, validation) if data is not None else None
    model = resolve_model(model) if model is not None else None
    is_terminal = sys.stdin.isatty()
    if not is_terminal:
        _require_options(data=data, model=model, memory=memory, train=train)
    if folders is None:
        folders = _ask("Data, a folder made by `virft build`", "data/mine", lambda text: find_datasets(Path(text)))
        folders = find_datasets(folders.train, validation)
    model = model or _ask(f"Model: {BUILT_IN_NAMES}, a folder, or a hub id", "virft-photo", resolve_model)
    size = read_model_size(model).num_parameters
    if memory is None and train is None and (size is None or size >= SMALL):
        memory = _ask("Memory of the GPU in GiB (empty: unknown)", "", _memory)
    found = first_config(
        folders,
        model=model,
        run_dir=run_dir or f"runs/{out.stem}",
        memory_gib=memory,
        train=train,
        method=method,
    )
    make_folder(out.parent)
    out.write_text(found.text, encoding="utf-8")
    say(f"wrote {out}:\n\n{found.text}")
    for gap in describe_gaps(folders):
        say(f"note: {gap}")
    if found.num_parameters is not None and found.num_parameters < SMALL:
        say(f"next: virft {method} {out}" + ("" if method == "sft" else " --dry-run"))
    else:
        say(f"next: virft plan {out}" + (f" --memory {memory:g}" if memory else "") + f" --method {method_of(method)}")


def _require_options(*, data: Path | None, model: str | None, memory: float | None, train: str | None) -> None:
    """Raise ``ConfigError`` without a terminal to ask on, naming every option that is missing."""
    from virft.config.fitting import SMALL
    from virft.models.size import read_model_size

    missing = ["--data DIR"] if data is None else []
    missing += ["--model MODEL"] if model is None else []
    if model is not None and memory is None and train is None:
        size = read_model_size(model).num_parameters
        missing += ["--memory GIB"] if size is None or size >= SMALL else []
    if missing:
        those = "this option" if len(missing) == 1 else "these options"
        raise ConfigError(f"init: {', '.join(missing)} missing; expected {those}, or a terminal to ask on")


def _ask(question: str, default: str, read: Callable[[str], _Answer]) -> _Answer:
    """Return what ``read`` makes of an answer; ask again if it raises an error of the user."""
    while True:
        answer = input(f"{question} [{default}]: " if default else f"{question}: ").strip() or default
        try:
            return read(answer)
        except VirftError as error:
            say(str(error))


def _memory(text: str) -> float | None:
    if not text:
        return None
    try:
        memory = float(text)
    except ValueError:
        memory = 0.0
    if not 0 < memory < 1e6:
        raise ConfigError(f"{text!r}; expected a number of GiB above 0, such as 24")
    return memory
