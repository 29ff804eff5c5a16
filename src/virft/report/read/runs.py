"""Read a run folder for a report, whether it is finished, running or damaged."""

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
    """Return True if a training run has been started in the folder."""
    return (folder / CONFIG).is_file()


def read_run(folder: Path, *, name: str) -> ReportedRun:
    """Read a run folder. A file that is missing or corrupt is listed under ``problems``; it is not an error.

    Raises ``RunError`` if another version wrote the folder in another format.
    """
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
    sample_ids = {str(one.get("sample")) for one in chosen_rollouts(rollouts)}
    return replace(run, samples=_find_samples(settings, folder, sample_ids))


def _read_config(folder: Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the text of ``config.toml`` and its settings by dotted key.

    No schema check: the run may have been made by another version.
    """
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
        problems.append(f"{path}: not the card of a run")
    return {}


def _find_samples(settings: Mapping[str, Any], folder: Path, sample_ids: set[str]) -> dict[str, Sample]:
    """Look up samples of the training data by the ids in the run's log; in a mixture an id is ``DATASET/id``."""
    sets = {"": settings["data.train"]} if "data.train" in settings else {}
    for key, value in settings.items():
        if key.startswith("mixture.") and key.endswith(".data"):
            sets[key.removeprefix("mixture.").removesuffix(".data")] = value
    found: dict[str, Sample] = {}
    for name, data in sets.items():
        before = f"{name}/" if name and len(sets) > 1 else ""
        own = {one.removeprefix(before) for one in sample_ids if one.startswith(before)}
        place = next((one for one in (Path(data), folder / data) if one.is_dir()), None)
        if not own or place is None:
            continue
        try:
            found |= {before + sample.id: sample for sample in Store(place) if sample.id in own}
        except DataError:
            continue  # the page notes the missing images
    return found
