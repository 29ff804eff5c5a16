"""Write docs/config.md and docs/virft.schema.json from virft.config.schema. Run it after a change of a setting."""

from __future__ import annotations

import json
from pathlib import Path

from virft.config.describe import FIRST
from virft.config.fitting import (
    FEW_IMAGES,
    LORA_FACTOR,
    MAX_LORA_RATE,
    MOST_STEPS,
    PAPER_MAX_PIXELS,
    SIZE_CLASSES,
    SMALL,
    STEPS_OF_FEW_IMAGES,
    format_size,
    may_be_fitted,
)
from virft.config.json_schema import SCHEMA_ADDRESS, SCHEMA_NAME, config_schema
from virft.config.schema import needed_by, sections, setting_at, settings
from virft.config.setting import REQUIRED, Setting

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "config.md"
SCHEMA = DOCS / SCHEMA_NAME

HEAD = """\
# Settings

`virft grpo CONFIG.toml [KEY=VALUE ...]` reads one TOML file and applies the settings of the command line over it. So do
`virft train`, `sft`, `plan`, `compare` and `audit`. A value on the command line is TOML; a bare word is a string:
`grpo.steps=10 model.train=lora`.

The smallest file:

```toml
data.train = "build/raccoon/train"
run.dir = "runs/raccoon"
```

It is an error if a key does not exist, has the wrong type, is out of range, or has no effect in this run (such as
`model.lora_rank` without LoRA). The message says which file or argument, what was found, and what is allowed.
`--dry-run` prints the expected cost of the run, and each setting that was set or fitted with its origin. All resolved
settings are in `config.toml` of the run folder, which can be used as a config again.

Defaults with an asterisk are [fitted](#fitted-defaults) to model and data.

Without a TOML file, all settings are given on the command line: `virft grpo data.train=build/raccoon/train
run.dir=runs/raccoon`.

## Look settings up

`virft config` lists the sections and the settings below, `virft config grpo` a section, and `virft config
grpo.learning_rate` explains a setting: default, allowed values, when it has an effect, how to write it, and what TRL,
verl, ms-swift and others call it. The names of other trainers are recognized:

```
$ virft grpo mine.toml num_train_epochs=3
virft: command line: num_train_epochs is not a setting; did you mean grpo.steps or sft.steps? steps = epochs x training
samples / samples per step (grpo.prompts_per_step, sft.samples_per_step)
```

## In an editor

[virft.schema.json](virft.schema.json) is a JSON Schema of config files. With it, editors complete settings, show their
help and mark mistakes. VS Code with the extension Even Better TOML, and other editors with Taplo, read its address from
the first line of a file:

```toml
#:schema ADDRESS
```

Offline, `virft config --schema --out virft.schema.json` writes the schema of the installed version; the line is then
`#:schema ./virft.schema.json`.

## Sections

SECTIONS

## A first config

```
virft init mine.toml --data data/mine --model Qwen/Qwen2.5-VL-3B-Instruct --memory 24
```

writes a commented config of about 15 lines: data, model, how to train it, the fitted settings and the reason for each
value. On a terminal it prompts for data, model and memory if they are missing; otherwise it lists the missing options.
`--data` is a dataset or the folder of a build: `train` and `validation` in it are found. `--lora` or `--full` chooses
what is trained; without either, size and memory decide: all weights if weights, gradients and AdamW states (20 bytes a
parameter) take at most 60 % of the usable memory, else LoRA; 4 bits if the bfloat16 weights take more than 65 % of it;
gradient checkpointing if they take more than 25 %. A tenth of the memory stays free. This is a rule of thumb, `virft
plan` computes the peak. The run folder has the name of the file: `runs/mine` for `mine.toml`. `--validation`,
`--run-dir`, `--method sft` and `--overwrite` are optional. Deleting a line with "fitted" changes nothing.

## The settings you will touch first
"""

FITTED = f"""\
## Fitted defaults

The defaults of the tables below are those of Visual-RFT for a model of 2 billion parameters. Another model, LoRA or
other data need other values. When `virft train`, `grpo`, `sft`, `plan`, `audit`, `compare` or `virft.train` reads a
config, each setting of this table that the config does not set gets the value that fits. A setting of the config or of
the command line always wins. A value that would have no effect is not filled in. `--dry-run` prints where each value
comes from, and `config.toml` of the run has all of them: a resumed run has the values that it was started with. A
`Config` that is built in Python is used as it is.

| setting | value | when | source |
|---|---|---|---|
FITTED_ROWS

Small models have fewer than {format_size(int(SMALL))}, such as `virft-tiny`. The size is read from the headers of the
safetensors files of a folder; of a hub id, it is known or read from the name (2B, 500M).

| parameters | GRPO | source | SFT | source |
|---|---|---|---|---|
RATES

These rates are for training all weights. LoRA: {LORA_FACTOR} times as much, at most {MAX_LORA_RATE:g} (source: LoRA
Without Regret, Schulman et al., 2025; VLM-R1 has 1e-6 and 1e-5 for GRPO, ms-swift 1e-5 and 1e-4 for SFT). A run whose
learning rate is ten or more times as large or as small prints a warning and records it in `events.jsonl`.
"""

TINY = "measured with `virft-tiny`, [log](log.md)"
FITTED_ROWS = (
    (
        "`model.max_pixels`",
        f"`{PAPER_MAX_PIXELS}`",
        "the model's own maximum is more than four times as large (Qwen-VL)",
        "Visual-RFT code",
    ),
    (
        "`data.validate_every`",
        "a quarter of the steps, rounded up",
        "a validation set is given; in a comparison, the steps are those of GRPO",
        "",
    ),
    (
        "`augment.resized_crop`, `.horizontal_flip`, `.colour_jitter`",
        "`0.35`, `true`, `0.3`",
        f"detection of one class or several with fewer than {FEW_IMAGES} images; none of the three is set",
        TINY,
    ),
    (
        "`reward.iou_threshold`, `.iou_threshold_end`",
        "`0.0`, `0.5`",
        "detection of one class or several with a small model, preset `robust`; neither is set",
        TINY,
    ),
    (
        "`reward.weights.confidence`",
        "`0.1`",
        "detection of one class or several with a small model, preset `robust`; no weight is set",
        TINY,
    ),
    (
        "`grpo.steps`",
        f"one pass over the samples, 200 to {MOST_STEPS:,}",
        f"always; from {STEPS_OF_FEW_IMAGES} for a small model with fewer than {FEW_IMAGES} images",
        f"200: Visual-RFT code; {STEPS_OF_FEW_IMAGES}: {TINY}",
    ),
    (
        "`sft.steps`",
        f"three passes over the samples, 100 to {MOST_STEPS:,}",
        "always; in a comparison, `compare.budget` decides",
        "",
    ),
    ("`grpo.learning_rate`, `sft.learning_rate`", "next table", "always", "next table"),
    (
        "`grpo.name_lr_scale`, `sft.name_lr_scale`",
        "`10.0`",
        "detection with a small model, all weights trained",
        TINY,
    ),
    (
        "`grpo.demonstrations`",
        '`"loss"`',
        "`virft train` without thinking",
        TINY,
    ),
    (
        "`grpo.demonstration_coef`, `grpo.demonstration_coef_end`",
        "`0.5`, `0.0`; the first is `0.1` if each sample is shown 25 times or more",
        '`grpo.demonstrations = "loss"`',
        "measured with the built-in models, [reproducing](reproducing.md#coefficient-of-the-demonstrations)",
    ),
    ("`grpo.kl_coef`", "`0.0`", "a small model; `grpo.kl_coef_end` is not set", TINY),
)
"""Setting, value, condition and source of each fitted default."""

TAIL = """\
This page is generated by `scripts/make_config_docs.py`.
"""


def config_page() -> str:
    """Return the whole page."""
    names = ("", *sections())
    links = ", ".join(f"[{name}](#{_anchor(name)})" for name in names if name)
    lines = [
        HEAD.replace("SECTIONS", links + ".").replace("ADDRESS", SCHEMA_ADDRESS),
        "| setting | default | when to change it |",
        "|---|---|---|",
    ]
    lines += [f"| `{key}` | {_default(setting_at(key))} | {when} |" for key, when in FIRST.items()]
    rows = "\n".join(f"| {' | '.join(row)} |" for row in FITTED_ROWS)
    lines += ["", FITTED.replace("FITTED_ROWS", rows).replace("RATES", "\n".join(_rate_rows()))]
    for section in names:
        lines += [f"## [{section}]" if section else "## Top level", ""]
        lines += ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
        lines += [_row(setting) for setting in settings() if setting.key.rpartition(".")[0] == section]
        lines.append("")
    return "\n".join([*lines, TAIL])


def schema_text() -> str:
    """Return the JSON Schema as ``virft config --schema --out`` writes it."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"


def _rate_rows() -> list[str]:
    rows, lower = [], ""
    for one in SIZE_CLASSES:
        is_last = one is SIZE_CLASSES[-1]
        upper = "" if is_last else format_size(int(one.below)).removesuffix(" parameters")
        size = f"from {lower}, or unknown" if is_last else f"{lower} to {upper}" if lower else f"below {upper}"
        rows.append(f"| {size} | `{one.grpo:g}` | {one.grpo_source} | `{one.sft:g}` | {one.sft_source} |")
        lower = upper
    return rows


def _anchor(section: str) -> str:
    return section.lower().replace(".", "")


def _row(setting: Setting) -> str:
    unit = f", {setting.unit}" if setting.unit else ""
    source = f" Source: {setting.source}." if setting.source else ""
    allowed = setting.allowed.replace("|", "\\|")
    needs = f" Has an effect if {needed}." if (needed := needed_by(setting.key)) else ""
    return f"| `{setting.key}` | {_default(setting)} | {allowed}{unit} | {setting.help}{needs}{source} |"


def _default(setting: Setting) -> str:
    return _plain_default(setting) + " \\*" * may_be_fitted(setting.key)


def _plain_default(setting: Setting) -> str:
    if setting.default is REQUIRED:
        return "(required)"
    if setting.default is None:
        return "not set"
    if isinstance(setting.default, bool):
        return f"`{str(setting.default).lower()}`"
    if isinstance(setting.default, (dict, tuple)):
        return f"`{', '.join(setting.default)}`" if setting.default else "empty"
    return f"`{setting.default}`"


if __name__ == "__main__":
    PAGE.write_text(config_page(), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
