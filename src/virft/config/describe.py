"""Describe settings for a reader: one setting, a section, and those that a new user changes first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import tomli_w

from virft.config.fitting import may_be_fitted
from virft.config.nearest import suggest_setting
from virft.config.other_names import other_names_of
from virft.config.schema import MIXTURE, describe_section, needed_by, sections, setting_at, settings
from virft.config.setting import REQUIRED, Setting
from virft.errors import ConfigError

FIRST: Mapping[str, str] = {
    "data.train": "always",
    "run.dir": "always",
    "data.validation": "to monitor training, save the best model (`run.keep_best`) and stop early (`run.patience`)",
    "model.path": "to train a model of your choice",
    "model.dtype": "another precision than bfloat16 on a GPU and float32 on a CPU",
    "model.train": "`lora` if full fine-tuning does not fit into memory; `virft plan` computes what fits",
    "grpo.learning_rate": "to tune it: three times as much, or a third, of the fitted value",
    "grpo.steps": "longer training, or a short test run",
    "grpo.prompts_per_step": "another batch size",
    "grpo.group_size": "more completions per prompt: less variance of the advantages, at proportional cost",
    "sampling.max_completion_tokens": "longer reasoning, or warnings about truncated completions",
    "sampling.prompts_per_batch": "a smaller value, if sampling runs out of memory (OOM)",
    "grpo.microbatch_tokens": "a smaller value, if the backward pass runs out of memory (OOM)",
    "reward.weights": "to weight or disable parts of the reward",
}
"""Key -> when to change it, of the settings that a new user changes first."""

EXAMPLES: Mapping[str, Any] = {
    "data.train": "data/mine/train",
    "data.validation": "data/mine/validation",
    "data.exclude": "runs/mine/suspects/suspects.jsonl",
    "data.num_workers": 4,
    "parallel.shard_size": 8,
    "mixture.NAME.data": "data/mine/train",
    "mixture.NAME.validation": "data/mine/validation",
    "mixture.NAME.thinking": True,
    "mixture.NAME.preset": "paper",
    "run.dir": "runs/mine",
    "run.trackers": ["tensorboard"],
    "model.min_pixels": 200704,
    "model.max_pixels": 401408,
    "sampling.prompts_per_batch": 4,
    "sampling.vllm_devices": [2, 3],
    "sampling.vllm_servers": 1,
    "reward.weights": {"iou": 1.0, "confidence": 0.1},
    "reward.iou_threshold_end": 0.75,
    "reward.segmenter": "facebook/sam2.1-hiera-large",
    "reward.extra": ["rewards.py:politeness"],
    "grpo.kl_coef_end": 0.0,
    "grpo.demonstration_coef_end": 0.0,
    "sft.base_completions": "runs/mine_compared/base",
    "monitors.stop_on": ["kl", "reward_hacking"],
    "compare.tests": ["data/mine/test"],
    "compare.sft_learning_rates": [1e-5, 1e-4],
    "compare.rft_learning_rates": [1e-6, 1e-5],
}
"""Example values of the settings whose default is not a value to copy."""


def describe(name: str = "", *, width: int = 80) -> str:
    """Describe a setting, a section, or with "" all sections and the settings that are changed first.

    ``width``: of a line, in characters. Raises ``ConfigError`` for an unknown name.
    """
    if not name:
        return "\n\n".join(
            [
                first_settings(FIRST, width=width),
                _all_sections(width=width),
                "`virft config SECTION` lists a section, `virft config KEY` explains a setting.",
            ]
        )
    section = MIXTURE if name.split(".")[0] == "mixture" and name.count(".") < 2 else name
    if section in sections():
        return describe_settings(section, width=width)
    try:
        setting = setting_at(name)
    except KeyError as error:
        raise ConfigError(f"{name} is not a setting; {suggest_setting(name)}") from error
    return _describe_one(setting, width=width)


def first_settings(keys: Iterable[str], *, width: int = 80) -> str:
    """List the settings that a new user changes first, of those ``keys``."""
    shown = [setting_at(key) for key in keys]
    rows = [(one.key, _marked_default(one), FIRST[one.key]) for one in shown]
    lines = ["Change these first (setting, default, when):", *_table(rows, width=width), *_footnote(shown, width=width)]
    return "\n".join(lines)


def describe_settings(section: str, *, width: int = 80) -> str:
    """List the settings of a section with default and first sentence of the help."""
    own = [setting for setting in settings() if setting.key.rpartition(".")[0] == section]
    rows = [(setting.key, _marked_default(setting), first_sentence(setting.help)) for setting in own]
    title = textwrap.fill(f"[{section}]: {describe_section(sections()[section])}", width)
    return "\n".join([title, "", *_table(rows, width=width), *_footnote(own, width=width)])


def setting_names(names: Iterable[str], *, width: int = 80) -> str:
    """List the names of all settings of some sections, one paragraph for each."""
    lines = ["All settings by section; `virft config SECTION` has their defaults, `virft config KEY` explains one:"]
    for section in names:
        own = [one.key.rpartition(".")[2] for one in settings() if one.key.rpartition(".")[0] == section]
        lines += textwrap.wrap(f"  {section:10}{', '.join(own)}", width, subsequent_indent=" " * 12)
    return "\n".join(lines)


def format_default(setting: Setting) -> str:
    """Format the default of a setting as TOML, or say that there is none.

    >>> format_default(setting_at("grpo.steps")), format_default(setting_at("model.max_pixels"))
    ('200', 'not set')
    """
    if setting.default is REQUIRED:
        return "(required)"
    if setting.default is None:
        return "not set"
    if isinstance(setting.default, (dict, tuple)) and not setting.default:
        return "empty"
    return toml_value(setting.default)


def _marked_default(setting: Setting) -> str:
    return format_default(setting) + " *" * may_be_fitted(setting.key)


def _footnote(shown: Iterable[Setting], *, width: int) -> list[str]:
    text = "* if it is not set: fitted to model and data; `--dry-run` of a training verb prints it"
    return (
        textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        if any(may_be_fitted(one.key) for one in shown)
        else []
    )


def toml_value(value: Any) -> str:
    """Format a value as TOML, in one line.

    >>> toml_value(True), toml_value(("a", "b")), toml_value({"iou": 1.0})
    ('true', '["a", "b"]', '{ iou = 1.0 }')
    """
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {toml_value(item)}' for name, item in value.items())} }}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(toml_value, value))}]"
    return tomli_w.dumps({"value": value}).strip().removeprefix("value = ")


def first_sentence(text: str) -> str:
    """Return the first sentence, without its full stop, in plain text.

    >>> first_sentence("Rank of the adapters. Not set: 8.")
    'Rank of the adapters'
    """
    return text.partition(". ")[0].rstrip(".")


def example_of(setting: Setting) -> Any:
    """Return a value to show: the other one of a switch, else the default, else an example."""
    general = f"{MIXTURE}.{setting.key.rpartition('.')[2]}" if setting.key.startswith("mixture.") else setting.key
    if general in EXAMPLES:
        return EXAMPLES[general]
    return not setting.default if isinstance(setting.default, bool) else setting.default


def _describe_one(setting: Setting, *, width: int) -> str:
    section, _, name = setting.key.rpartition(".")
    example = toml_value(example_of(setting))
    header = [f"[{section}]"] if section else []
    quoted = f"'{setting.key}={example}'" if set(example) & set(' "{[') else f"{setting.key}={example}"
    plain = f"{setting.key}={example_of(setting)}" if isinstance(example_of(setting), str) else quoted
    facts = [
        (
            "default",
            [format_default(setting), "fitted to model and data if it is not set" * may_be_fitted(setting.key)],
        ),
        ("allowed", [setting.allowed]),
        ("unit", [setting.unit]),
        ("has effect if", [needed_by(setting.key)]),
        ("source", [setting.source]),
        ("in a file", [*header, f"{name} = {example}"]),
        ("on the command line", [plain]),
        ("in other trainers", [", ".join(other_names_of(setting.key))]),
    ]
    lines = [setting.key, "", *textwrap.wrap(setting.help, width), ""]
    for title, texts in facts:
        wrapped = [line for text in texts if text for line in textwrap.wrap(text, width - 22)]
        lines += [f"{title if i == 0 else '':20}  {line}" for i, line in enumerate(wrapped)]
    return "\n".join(lines)


def _all_sections(*, width: int) -> str:
    counts = {name: sum(one.key.rpartition(".")[0] == name for one in settings()) for name in sections()}
    rows = [
        (name, f"{counts[name]} settings", first_sentence(describe_section(kind))) for name, kind in sections().items()
    ]
    return "\n".join(["Sections:", *_table([("seed", "1 setting", "random seed of a run"), *rows], width=width)])


def _table(rows: Iterable[tuple[str, str, str]], *, width: int) -> list[str]:
    """Return the lines of a table of three columns; the last one is wrapped."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    indent = sum(widths) + 6
    return list(
        chain.from_iterable(
            textwrap.wrap(
                f"  {key:{widths[0]}}  {default:{widths[1]}}  {text}",
                max(width, indent + 24),
                subsequent_indent=" " * indent,
                break_on_hyphens=False,
            )
            for key, default, text in rows
        )
    )
