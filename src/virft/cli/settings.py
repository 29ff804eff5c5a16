"""Verb ``config``: explain the settings of a run. Imports are inside the functions: help needs none of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from virft.cli.output import say
from virft.cli.parsers import Verbs, add_verb
from virft.errors import ConfigError


def add_config_verb(verbs: Verbs) -> None:
    """Add the parser of ``config``."""
    verb = add_verb(verbs, "config", "explain the settings of a run", config)
    verb.add_argument(
        "name",
        metavar="KEY",
        nargs="?",
        default="",
        help="section or setting, such as grpo or grpo.steps (default: all sections, and the settings to change first)",
    )
    verb.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of config files, by which editors complete them"
    )
    verb.add_argument("--out", type=Path, help="write the JSON Schema to this file; needs --schema")


def config(*, name: str = "", schema: bool = False, out: Path | None = None) -> None:
    """Print the description of a setting, of a section or of all; or the JSON Schema of config files.

    Raises ``ConfigError`` for an unknown name, and for arguments that do not fit together.
    """
    if schema and name:
        raise ConfigError(f"config: --schema describes all settings; expected no KEY, found {name!r}")
    if out is not None and not schema:
        raise ConfigError("--out has no effect: it needs --schema; remove it")
    if not schema:
        from virft.config.describe import describe

        say(describe(name, width=min(shutil.get_terminal_size().columns, 120)))
        return
    import json

    from virft.config.json_schema import config_schema
    from virft.files import make_folder

    text = json.dumps(config_schema(), indent=2, ensure_ascii=False)
    if out is None:
        say(text)
        return
    make_folder(out.parent)
    out.write_text(text + "\n", encoding="utf-8")
    say(f"{out}: put `#:schema {out}` into the first line of a config file")
