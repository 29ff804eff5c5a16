"""Write docs/config.md from the settings of virft.config.schema. Run it after a setting has changed."""

from __future__ import annotations

from pathlib import Path

from virft.config.schema import REQUIRED, Setting, sections, settings

PAGE = Path(__file__).parents[1] / "docs" / "config.md"

HEAD = """\
# Settings

`virft grpo CONFIG.toml [key=value ...]` reads one TOML file and puts the settings of the command line over it; so do
`virft sft` and `virft compare`.
A value on the command line is TOML; a bare word is a string: `grpo.steps=10 model.train=lora`.

A key that does not exist, has the wrong type, is out of range, or changes nothing in this run (such as
`model.lora_rank` without LoRA) is an error that names the file, what was found, and what is allowed. `--dry-run`
prints the resolved file, which can be used as a config again.

The smallest file:

```toml
data.train = "build/raccoon/train"
run.dir = "runs/raccoon"
```

This page is written by `scripts/make_config_docs.py`.
"""


def config_page() -> str:
    """The whole page."""
    lines = [HEAD]
    for section in ("", *sections()):
        lines += [f"## [{section}]" if section else "## Top level", ""]
        lines += ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
        lines += [_row(setting) for setting in settings() if setting.key.rpartition(".")[0] == section]
        lines.append("")
    return "\n".join(lines)


def _row(setting: Setting) -> str:
    unit = f", {setting.unit}" if setting.unit else ""
    source = f" Source: {setting.source}." if setting.source else ""
    allowed = setting.allowed.replace("|", "\\|")
    return f"| `{setting.key}` | {_default(setting)} | {allowed}{unit} | {setting.help}{source} |"


def _default(setting: Setting) -> str:
    if setting.default is REQUIRED:
        return "(required)"
    if setting.default is None:
        return "not set"
    if isinstance(setting.default, bool):
        return f"`{str(setting.default).lower()}`"
    if isinstance(setting.default, (dict, tuple)):
        return "none"
    return f"`{setting.default}`"


if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")
