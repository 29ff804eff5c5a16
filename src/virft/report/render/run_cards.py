"""Where runs came from, and in which settings they differ."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from virft.report.render.reported import ReportedRun, ReportedSystem

NOT_SET = "–"
_OWN = ("run.dir",)
"""Settings that differ between any two runs, and say nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCardView:
    """A run's card: facts by name, the text of its config, what is missing, what happened to it."""

    name: str
    facts: tuple[tuple[str, str], ...]
    config: str
    problems: tuple[str, ...]
    events: tuple[ShownEvent, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownEvent:
    """What a guard saw, or what happened, and what the run did."""

    event: str
    message: str
    action: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingRow:
    """A setting and what each run says."""

    key: str
    values: tuple[str, ...]


def run_card_views(systems: Sequence[ReportedSystem]) -> list[RunCardView]:
    """A card for each run."""
    return [_view(run) for system in systems for run in system.runs]


def settings_that_differ(runs: Sequence[ReportedRun]) -> list[SettingRow]:
    """Settings, in the order of the first run's config, that not all runs have alike; where they write is left out."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings if key not in _OWN))
    rows = [SettingRow(key=key, values=tuple(_shown(run.settings.get(key)) for run in runs)) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1]


def num_steps_done(run: ReportedRun) -> int:
    """Steps that the log of times or of metrics tells of; 0 of a run that has just begun."""
    steps = [record["step"] + 1 for record in (*run.timings, *run.metrics) if len(record) > 1]
    trained = [record["step"] + 1 for record in run.timings]
    return max(trained or steps, default=0)


def _view(run: ReportedRun) -> RunCardView:
    card = run.card
    planned = run.settings.get(f"{run.trainer}.steps")
    versions = card.get("versions", {})
    facts = {
        "folder": run.folder,
        "trained by": card.get("trainer"),
        "steps": f"{num_steps_done(run)}" + (f" of {planned}" if planned is not None else ""),
        "model": card.get("model") or run.settings.get("model.path"),
        "command": shlex.join(str(word) for word in card.get("argv", ())),
        "commit": card.get("commit"),
        "seed": str(card["seed"]) if "seed" in card else None,
        "data hash": card.get("data_hash"),
        "versions": ", ".join(
            f"{name} {version}" for name, version in ({"virft": card.get("virft")} | versions).items() if version
        ),
        "machine": ", ".join(str(one) for one in (card.get("machine"), _python(card.get("python"))) if one),
    }
    return RunCardView(
        name=run.name,
        facts=tuple((name, str(value)) for name, value in facts.items() if value),
        config=run.config,
        problems=run.problems,
        events=tuple(
            ShownEvent(
                event=str(one.get("event", "")), message=str(one.get("message", "")), action=str(one.get("action", ""))
            )
            for one in run.events
        ),
    )


def _python(version: Any) -> str:
    return f"Python {version}" if version else ""


def _shown(value: Any) -> str:
    """As TOML says it, nearly.

    >>> _shown(None), _shown(True), _shown([1, 2]), _shown("a")
    ('–', 'true', '[1, 2]', 'a')
    """
    if value is None:
        return NOT_SET
    return str(value).lower() if isinstance(value, bool) else str(value)
