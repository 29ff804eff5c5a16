"""Provenance of runs (command, commit, versions, machine, events) and the settings in which they differ."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from virft.config.wording import counted
from virft.report.render.reported import ReportedRun, ReportedSystem
from virft.report.render.throughput import describe_devices, describe_precision, describe_throughput
from virft.training.progress import duration

NOT_SET = "–"
_IGNORED_SETTINGS = ("run.dir",)
"""Settings that differ between any two runs and carry no information."""
_OWN_SECTIONS = frozenset({"grpo", "sft", "compare"})
"""Sections that only the trainer or the verb of that name uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCardView:
    """A run's card: facts by name, text of its config, problems while reading it, events."""

    name: str
    facts: tuple[tuple[str, str], ...]
    config: str
    problems: tuple[str, ...]
    events: tuple[ShownEvent, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownEvent:
    """A record of ``events.jsonl``: the event, its message and the run's action."""

    event: str
    message: str
    action: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingRow:
    """A setting and its value in each run."""

    key: str
    values: tuple[str, ...]


def run_card_views(systems: Sequence[ReportedSystem]) -> list[RunCardView]:
    """Return a card for each run."""
    return [_view(run) for system in systems for run in system.runs]


def settings_that_differ(runs: Sequence[ReportedRun]) -> list[SettingRow]:
    """Return the settings that differ between runs, in the order of the first run's config, without ``run.dir``.

    A setting of another trainer has no effect on a run; so it has no value there, and is listed only if it differs
    between runs that use it.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.settings if key not in _IGNORED_SETTINGS))
    rows = []
    for key in keys:
        used = [_is_used(key, run) for run in runs]
        values = tuple(
            _format_value(run.settings.get(key)) if has_effect else NOT_SET
            for run, has_effect in zip(runs, used, strict=True)
        )
        if len({value for value, has_effect in zip(values, used, strict=True) if has_effect}) > 1:
            rows.append(SettingRow(key=key, values=values))
    return rows


def _is_used(key: str, run: ReportedRun) -> bool:
    """Return False for a setting in the section of another trainer, or of ``virft compare``."""
    return key.partition(".")[0] not in _OWN_SECTIONS - {run.trainer}


def warm_start_of(run: ReportedRun) -> str:
    """Return the warm start of a run as a clause; "" without one."""
    number = run.settings.get("grpo.warm_start_steps", 0) if run.trainer == "grpo" else 0
    return f", the first {number} supervised" if number else ""


def num_steps_done(run: ReportedRun) -> int:
    """Return the number of completed steps by ``timings.jsonl``, else by ``metrics.jsonl``; 0 for a new run."""
    steps = [record["step"] + 1 for record in (*run.timings, *run.metrics) if len(record) > 1]
    trained = [record["step"] + 1 for record in run.timings]
    return max(trained or steps, default=0)


def _training_time(run: ReportedRun) -> str:
    """Return the time that a run spent in its steps, without validation and saving; "" if no step was timed."""
    if not run.timings:
        return ""
    seconds = [
        value
        for record in run.timings
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and isfinite(value)
    ]
    return f"{duration(sum(seconds))} in steps, {sum(seconds) / len(run.timings):.1f} s each"


def _view(run: ReportedRun) -> RunCardView:
    card = run.card
    planned = run.settings.get(f"{run.trainer}.steps")
    versions = card.get("versions", {})
    facts = {
        "folder": run.folder,
        "method": card.get("trainer"),
        "steps": f"{num_steps_done(run)}" + (f" of {planned}" if planned is not None else "") + warm_start_of(run),
        "training time": _training_time(run),
        "throughput": describe_throughput(run),
        "precision": describe_precision(run),
        "device": describe_devices(run),
        "model": card.get("model") or run.settings.get("model.path"),
        "command": shlex.join(str(word) for word in card.get("argv", ())),
        "commit": card.get("commit"),
        "seed": str(card["seed"]) if "seed" in card else None,
        "data hash": card.get("data_hash"),
        "excluded": f"{counted(len(excluded), 'sample')} (data.exclude)"
        if (excluded := card.get("excluded"))
        else None,
        "versions": ", ".join(
            f"{name} {version}" for name, version in ({"virft": card.get("virft")} | versions).items() if version
        ),
        "machine": ", ".join(str(one) for one in (card.get("machine"), _format_python(card.get("python"))) if one),
    }
    return RunCardView(
        name=run.name,
        facts=tuple((name, str(value)) for name, value in facts.items() if value),
        config=run.config,
        problems=run.problems,
        events=tuple(
            ShownEvent(
                event=str(one.get("event", "")),
                message=str(one.get("message", "")),
                action=str(one.get("action", "")),
            )
            for one in run.events
        ),
    )


def _format_python(version: Any) -> str:
    return f"Python {version}" if version else ""


def _format_value(value: Any) -> str:
    """Format a setting nearly as TOML does.

    >>> _format_value(None), _format_value(True), _format_value([1, 2]), _format_value("a")
    ('–', 'true', '[1, 2]', 'a')
    """
    if value is None:
        return NOT_SET
    return str(value).lower() if isinstance(value, bool) else str(value)
