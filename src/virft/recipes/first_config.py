"""The first config of a user: a commented TOML of the settings that fit data, model and memory (``virft init``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tomli_w

from virft.config.fitting import (
    FITTED_KEYS,
    SMALL,
    TrainingVerb,
    describe_origin,
    fitted_values,
    format_size,
    method_of,
)
from virft.config.schema import Config, Method
from virft.config.toml_file import KEYWORDS, LoadedConfig, complete, parse, value_at
from virft.data.store import CARD, read_card
from virft.errors import ConfigError
from virft.recipes.fitting import facts_of
from virft.tasks import TASKS

_USABLE_FRAC = 0.9
"""Fraction of a device's memory that settings are chosen for."""

_GIB = 2**30
_FULL_BYTES = 20
"""Bytes per parameter of full training: weights, gradients and two AdamW states in float32 (16), a reference in
float32 (4). Activations are not in it."""
_FULL_FRAC = 0.6
"""Fraction of the usable memory that weights and states may take in full training; the rest is for activations."""
_LORA_FRAC = 0.65
"""The same for the frozen bfloat16 weights under LoRA. A 3B model fits 24 GiB so, and a 7B model 48 GiB, as
``virft plan`` finds."""
_CHECKPOINTING_FRAC = 0.25
"""Fraction above which activations are recomputed (gradient checkpointing)."""
_FOUR_BITS = 0.6
"""Bytes per parameter in 4 bits (NF4), with scales and with the parts that are not quantized."""


class DataFolders(NamedTuple):
    """Training and validation datasets."""

    train: Path
    validation: Path | None


class Choice(NamedTuple):
    """A line of the config: a value and the reason for it."""

    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstConfig:
    """A config as text, and what it resolves to."""

    text: str
    """Commented TOML."""

    config: Config
    """The resolved settings."""

    num_parameters: int | None
    """Number of parameters of the model, if known."""


def find_datasets(folder: Path, validation: Path | None = None) -> DataFolders:
    """Return the datasets in a folder that ``virft build`` made: of a build with a split, train and validation.

    ``validation``: another validation dataset. Raises ``ConfigError`` if there is no dataset, and
    ``DataError`` if ``validation`` is none.
    """
    parts = {name: folder / name for name in ("train", "validation") if (folder / name / CARD).is_file()}
    if (folder / CARD).is_file():
        train = folder
        beside = folder.parent / "validation"
        found = beside if folder.name == "train" and (beside / CARD).is_file() else None
    elif "train" in parts:
        train, found = parts["train"], parts.get("validation")
    else:
        what = "holds no dataset" if folder.is_dir() else "does not exist"
        raise ConfigError(f"{folder}: {what}; expected a folder that `virft build` made, such as data/mine")
    if validation is not None:
        read_card(validation)
    return DataFolders(train, validation or found)


def describe_gaps(data: DataFolders) -> list[str]:
    """Return a sentence for what the datasets lack and a new build would add: negatives, a validation split."""
    gaps = []
    card = read_card(data.train)
    if card.get("negatives_frac") == 0:
        tasks = [TASKS[name] for name in card.get("counts", {})]
        answers = dict.fromkeys(f'"{task.describe_answer(task.absent)}"' for task in tasks if task.absent is not None)
        gaps.append(
            f"no question is about an absent class, so nothing teaches the model to answer {' or '.join(answers)}; "
            "build with --negatives-frac 0.2, if some images lack a class"
        )
    if data.validation is None:
        gaps.append("no validation data, so the run cannot keep its best model; build with --validation-frac 0.2")
    return gaps


def first_config(
    data: DataFolders,
    *,
    model: str,
    run_dir: str,
    memory_gib: float | None = None,
    train: Literal["full", "lora"] | None = None,
    method: TrainingVerb = "train",
) -> FirstConfig:
    """Return the config that fits these data, this model and this memory.

    ``memory_gib``: memory of the device in GiB; None if unknown. ``train``: None chooses by size and memory. The text
    resolves to the same settings as a config without its fitted lines.

    Raises ``ConfigError`` if the model does not fit into the memory in any way.
    """
    own: dict[str, Any] = {"data.train": str(data.train), "model.path": model, "run.dir": run_dir}
    if data.validation is not None:
        own["data.validation"] = str(data.validation)
    bare = parse("", origin=KEYWORDS, keywords=own).config
    num_parameters = facts_of(bare).num_parameters
    chosen = _of_memory(num_parameters, memory_gib, train)
    loaded = parse("", origin=KEYWORDS, keywords=own | {key: one.value for key, one in chosen.items()})
    fitted = fitted_values(loaded.config, loaded.explicit, facts_of(loaded.config), method=method)
    done = complete(loaded, fitted)
    lines = chosen | {key: Choice(one.value, describe_origin(one)) for key, one in fitted.items()}
    text = _text(own, _with_budget(lines, done, method_of(method)), num_parameters)
    return FirstConfig(text=text, config=done.config, num_parameters=num_parameters)


def _of_memory(
    num_parameters: int | None, memory_gib: float | None, train: Literal["full", "lora"] | None
) -> dict[str, Choice]:
    """The keys of ``[model]`` that memory decides."""
    size = format_size(num_parameters)
    if num_parameters is None or num_parameters < SMALL:
        how = train or ("lora" if num_parameters is None else "full")
        reason = "chosen" if train else f"{size}: " + ("all weights fit anywhere" if how == "full" else "less memory")
        return {"model.train": Choice(how, reason)} | ({} if num_parameters else {"model.dtype": _half()})
    usable = _USABLE_FRAC * memory_gib if memory_gib is not None else None
    needed = {"full": num_parameters * _FULL_BYTES / _GIB, "lora": 2 * num_parameters / _GIB}
    where = f"{needed['full']:.0f} GiB of weights, gradients and AdamW states"
    if train is None:
        fits = usable is not None and needed["full"] <= _FULL_FRAC * usable
        how, reason = ("full", f"{where} fit into {memory_gib:g} GiB") if fits else ("lora", f"full: {where}")
    else:
        how, reason = train, "chosen"
    chosen = {"model.dtype": _half(), "model.train": Choice(how, reason)}
    if usable is None:
        return chosen
    if how == "full":
        return chosen | _checkpointing(needed["full"], usable)
    if needed["lora"] <= _LORA_FRAC * usable:
        return chosen | _checkpointing(needed["lora"], usable)
    four = _FOUR_BITS * num_parameters / _GIB
    if four > _LORA_FRAC * usable:
        raise ConfigError(
            f"{size} do not fit into {memory_gib:g} GiB: the weights alone take {four:.0f} GiB in 4 bits; "
            "expected a smaller model, or more memory"
        )
    reason = f"{needed['lora']:.0f} GiB of bfloat16 weights leave too little of {memory_gib:g} GiB; virft[quant]"
    return chosen | {"model.load_in_4bit": Choice(True, reason)} | _checkpointing(usable, usable)


def _half() -> Choice:
    return Choice("bfloat16", "half the memory of float32; trained weights stay float32")


def _checkpointing(held_gib: float, usable_gib: float) -> dict[str, Choice]:
    if held_gib <= _CHECKPOINTING_FRAC * usable_gib:
        return {}
    return {"model.gradient_checkpointing": Choice(True, "less memory for activations, a third more time")}


def _with_budget(lines: Mapping[str, Choice], done: LoadedConfig, method: Method) -> dict[str, Choice]:
    """The lines with steps and batch size, also if they are the defaults: they decide the cost."""
    steps = f"{method}.steps"
    batch = "grpo.prompts_per_step" if method == "grpo" else "sft.samples_per_step"
    shown = {key: Choice(value_at(done.config, key), done.origins[key]) for key in (steps, batch)}
    defaults = {steps: "optimizer steps, as Visual-RFT", batch: "batch size, as Visual-RFT"}
    if method == "sft":
        defaults = {steps: "optimizer steps", batch: "batch size"}
    shown = {
        key: Choice(one.value, defaults[key] if one.reason == "default" else one.reason) for key, one in shown.items()
    }
    merged = {**lines, **shown}
    order = ["model.train", "model.dtype", "model.load_in_4bit", "model.gradient_checkpointing", *FITTED_KEYS, batch]
    return {key: merged[key] for key in order if key in merged}


def _text(own: Mapping[str, Any], lines: Mapping[str, Choice], num_parameters: int | None) -> str:
    head = [
        '# Written by `virft init`. A value with "fitted" is also used if its line is deleted (docs/config.md).',
        *(_line(key, value) for key, value in own.items() if key.startswith("data.")),
        _line("run.dir", own["run.dir"]),
        f"{_line('model.path', own['model.path'])}  # {format_size(num_parameters)}",
    ]
    return "\n".join([*head, *(f"{_line(key, one.value)}  # {one.reason}" for key, one in lines.items())]) + "\n"


def _line(key: str, value: Any) -> str:
    """One line of TOML with a dotted key.

    >>> _line("grpo.learning_rate", 1e-6), _line("run.dir", "runs/a")
    ('grpo.learning_rate = 1e-06', 'run.dir = "runs/a"')
    """
    written = tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip("\n")
    return f"{key} = {written}"
