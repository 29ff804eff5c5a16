"""A run folder, in whatever state it is, as a report shows it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from virft.data.store import Store
from virft.errors import DataError
from virft.report.render.reported import ReportedRun
from virft.report.render.shown_groups import chosen_rollouts
from virft.training.run import CARD, CONFIG, EVENTS, METRICS, ROLLOUTS, TIMINGS, RunFolder, require_current_format
from virft.types import Sample


def is_run(folder: Path) -> bool:
    """Whether a training stage has begun there."""
    return (folder / CONFIG).is_file()


def read_run(folder: Path, *, name: str) -> ReportedRun:
    """A run folder in whatever state it is. Raises ``RunError`` if another version wrote it in another format."""
    require_current_format(folder)
    problems: list[str] = []
    logs = RunFolder(folder)
    config, settings = _read_config(folder, problems)
    card = _read_card(folder, problems)
    metrics, timings, rollouts, events = (
        [record for record in logs.records(log) if isinstance(record["step"], int)]
        for log in (METRICS, TIMINGS, ROLLOUTS, EVENTS)
    )
    run = ReportedRun(
        name=name,
        folder=str(folder),
        card=card,
        settings=settings,
        config=config,
        metrics=metrics,
        timings=timings,
        rollouts=rollouts,
        events=events,
        problems=tuple(problems),
    )
    wanted = {str(one.get("sample")) for one in chosen_rollouts(rollouts)}
    return replace(run, samples=_find_samples(settings, folder, wanted))


def _read_config(folder: Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    """Text and dotted settings. Read without our own checks: the run may be of another version."""
    path = folder / CONFIG
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return text, dict(_dotted(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: not valid TOML ({error})")
        return text, {}


def _dotted(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _read_card(folder: Path, problems: list[str]) -> dict[str, Any]:
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        problems.append(f"{path}: not valid JSON ({error})")
    else:
        if isinstance(card, dict):
            return card
        problems.append(f"{path}: no card of a run")
    return {}


def _find_samples(settings: Mapping[str, Any], folder: Path, wanted: set[str]) -> dict[str, Sample]:
    """Samples of the run's training data by the ids of its log: in a mixture, the set's name stands before the id."""
    sets = {"": settings["data.train"]} if "data.train" in settings else {}
    for key, value in settings.items():
        if key.startswith("mixture.") and key.endswith(".data"):
            sets[key.removeprefix("mixture.").removesuffix(".data")] = value
    found: dict[str, Sample] = {}
    for name, data in sets.items():
        before = f"{name}/" if name and len(sets) > 1 else ""
        own = {one.removeprefix(before) for one in wanted if one.startswith(before)}
        place = next((one for one in (Path(data), folder / data) if one.is_dir()), None)
        if not own or place is None:
            continue
        try:
            found |= {before + sample.id: sample for sample in Store(place) if sample.id in own}
        except DataError:
            continue  # told where the pictures are missing
    return found
