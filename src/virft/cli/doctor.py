"""Verbs to begin with: quickstart and doctor. Imports are inside the functions: help needs none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virft.cli import arguments
from virft.cli.output import say
from virft.cli.parsers import Verbs, add_resume, add_verb
from virft.errors import CheckFailed


def add_quickstart(verbs: Verbs) -> None:
    """Add the parser of ``quickstart``."""
    verb = add_verb(verbs, "quickstart", "train the built-in model in minutes, on a CPU", quickstart)
    verb.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        nargs="?",
        help="run folder (default: runs/quickstart, with --photo runs/quickstart_photo)",
    )
    verb.add_argument("--photo", action="store_true", help="32 labelled photographs and the model for photographs")
    verb.add_argument("--seed", type=arguments.not_negative, default=0, metavar="N", help="random seed")
    verb.add_argument(
        "--steps",
        type=arguments.positive,
        metavar="N",
        help="optimizer steps of each method (default: 80, with --photo 60)",
    )
    add_resume(verb, "a quickstart")


def quickstart(
    *, out: Path | None = None, photo: bool = False, seed: int = 0, steps: int | None = None, resume: bool = False
) -> None:
    """Train a built-in model on new classes with SFT, GRPO and mix; write scores, curves and images as a page."""
    from virft.recipes.quickstart import run_quickstart

    folder = out or Path("runs/quickstart_photo" if photo else "runs/quickstart")
    run_quickstart(folder, seed=seed, steps=steps, resume=resume, log=say, photographs=photo)


def add_doctor(verbs: Verbs) -> None:
    """Add the parser of ``doctor``."""
    verb = add_verb(verbs, "doctor", "check this machine, and the model and data of a config", doctor)
    verb.add_argument(
        "config", metavar="CONFIG", type=arguments.config_file, nargs="?", help="TOML file of a run to check too"
    )
    verb.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="settings that override the file, or replace it"
    )


def doctor(*, config: Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Print packages, device, memory and disk line by line; raise ``CheckFailed`` if something has to be fixed."""
    settings = None
    if config is not None or overrides:
        from virft.recipes.fitting import load_fitted_config

        settings = load_fitted_config(config, overrides).config
    from virft.recipes.doctor import State, examine

    to_fix, to_note = [], []
    for finding in examine(settings, folder=Path(settings.run.dir if settings else "runs")):
        say(f"{finding.state:4}  {finding.about:12}{finding.message}")
        if finding.advice:
            say(f"{'':18}-> {finding.advice}")
        to_fix += [finding.about] if finding.state is State.FIX else []
        to_note += [finding.about] if finding.state is State.NOTE else []
    if to_fix:
        raise CheckFailed(f"to be fixed: {', '.join(to_fix)}")
    noted = f"nothing has to be fixed; see the notes about: {', '.join(dict.fromkeys(to_note))}"
    say(noted if to_note else "no problems found")
