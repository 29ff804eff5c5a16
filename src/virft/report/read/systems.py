"""Assign each predictions folder to a run, to the base model or to another model: the systems of a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virft.data.store import Store
from virft.data.store_writer import file_hash
from virft.errors import DataError, RunError
from virft.evaluation.leakage import leakage_warnings
from virft.evaluation.prediction_folders import data_name, find_prediction_folders, holds_predictions
from virft.evaluation.predictions import PREDICTIONS, PredictionsCard, read_predictions_card
from virft.report.read.predictions import FittedBlind, read_reported_predictions
from virft.report.read.runs import is_run, read_run
from virft.report.render.reported import ReportedPredictions, ReportedRun, ReportedSystem
from virft.training.run import CARD, CONFIG

BASE = "base"


def read_systems(
    places: Sequence[Path], *, with_intervals: bool = True
) -> tuple[tuple[ReportedSystem, ...], tuple[str, ...]]:
    """Return the systems of some folders, and notes on what must not be compared or could not be read.

    Order: ``base`` (the model that the runs were initialised from, if it has predictions), then each run with the
    predictions of its model, then models that belong to none of the runs. ``RunError``: a folder is neither a run
    nor holds predictions.
    """
    folders = [place for place in dict.fromkeys(places) if is_run(place)]
    for place in places:
        if place not in folders and not holds_predictions(place):
            raise RunError(
                f"{place}: {'not a run' if place.is_dir() else 'no such folder'}; expected a run folder (with {CONFIG})"
                f" or a folder of predictions (with {PREDICTIONS} and {CARD})"
            )
    runs = [
        _Origin(folder=folder, run=read_run(folder, name=name))
        for folder, name in zip(folders, short_names(folders), strict=True)
    ]
    found: _Found = {}
    fitted: FittedBlind = {}
    scored: dict[tuple[str, str, str], ReportedPredictions] = {}
    notes: list[str] = []
    for folder, near in _prediction_folders(places, folders):
        try:
            card = read_predictions_card(folder / PREDICTIONS)
        except DataError as error:
            notes.append(str(error))
            continue
        # every run may hold the same predictions of the base model: score identical files once, list them once
        key = (_system_of(card, folder, runs), repr(replace(card, data="")), _digest(folder / PREDICTIONS))
        if key not in scored or not scored[key].scores:
            scored[key] = read_reported_predictions(
                folder,
                card,
                near=near,
                with_intervals=with_intervals,
                run=folders[0] if folders else None,
                fitted=fitted,
            )
            found.setdefault(key[0], {}).setdefault(data_name(card), []).append(scored[key])
    for origin in runs:
        # if only the best checkpoint has predictions, it represents its run
        best = found.pop(_best_of(origin.run.name), None) if origin.run.name not in found else None
        if best is not None:
            found[origin.run.name] = best
    notes += _split_by_content(found)
    notes += _leakage_notes(found, runs)
    systems = _in_order(_one_setting_per_system(found), runs)
    return systems, tuple(notes)


def short_names(folders: Iterable[Path]) -> list[str]:
    """Return the shortest path suffix that identifies each folder among the others.

    A last path component that all folders share is dropped, and so is ``run``.

    >>> short_names([Path("a/1/run"), Path("a/2/run")]), short_names([Path("runs/mine")])
    (['1', '2'], ['mine'])
    """
    parts = [folder.absolute().parts[1:] for folder in folders]
    while (
        all(len(one) > 1 for one in parts)
        and len({one[-1] for one in parts}) == 1
        and (parts[0][-1] == "run" or len(set(parts)) > 1)
    ):
        parts = [one[:-1] for one in parts]
    length = 1
    while len({one[-length:] for one in parts}) < len(set(parts)):
        length += 1
    return ["/".join(one[-length:]) for one in parts]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Origin:
    """A run and its current folder, which may differ from ``run.dir`` in its config."""

    folder: Path
    run: ReportedRun


def _prediction_folders(places: Sequence[Path], runs: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield each folder of predictions once, with the folder to start the search for its dataset from."""
    seen = set()
    for place in places:
        for folder in find_prediction_folders(place) if place in runs else [place]:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder, place


def _system_of(card: PredictionsCard, folder: Path, runs: Sequence[_Origin]) -> str:
    """Return the name of the system that made the predictions: a run, the base model of the runs, or another model."""
    names = [origin.run.name for origin in runs]
    for origin in runs:
        for kind, name in (("model", origin.run.name), ("best", _best_of(origin.run.name))):
            if _is_own(card.model, kind, origin, inside=folder.is_relative_to(origin.folder)):
                return name
    bases = {str(one.run.settings["model.path"]): None for one in runs if "model.path" in one.run.settings}
    if card.model in bases or any(_same_place(card.model, base) for base in bases):
        base = f"{BASE} model" if BASE in names else BASE
        return base if len(bases) == 1 else f"{base} {_model_name(card.model)}"
    name = _model_name(card.model)
    return card.model if name in names else name


def _best_of(run: str) -> str:
    return f"{run}, best by validation"


def _is_own(model: str, kind: str, origin: _Origin, *, inside: bool) -> bool:
    """Return True if a card's model is the run's own.

    ``inside``: the predictions are in the run's folder. Then a path from before the run was moved or renamed counts,
    too: one below the old ``run.dir``, or one with the same last two components.
    """
    place = origin.folder / kind
    before = Path(str(origin.run.settings.get("run.dir", origin.folder))) / kind
    was_own = Path(model) == before or Path(model).parts[-2:] == place.absolute().parts[-2:]
    return _same_place(model, str(place)) or (inside and was_own)


def _same_place(one: str, other: str) -> bool:
    return Path(one).exists() and Path(one).resolve() == Path(other).resolve()


def _model_name(model: str) -> str:
    """Return a short name of a model path; for ``runs/a/model`` it is the run's name, ``a``."""
    parts = Path(model).parts
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else "/".join(parts[-2:])


_Found = dict[str, dict[str, list[ReportedPredictions]]]
"""System -> test set -> predictions."""


def _split_by_content(found: _Found) -> list[str]:
    """Rename, in place, test sets that share a name but differ in content; return a note for each.

    A test set is named after the only system with predictions on it (the base model aside), else by its hash.
    """
    systems_of: dict[str, dict[str, list[str]]] = {}
    for system, tests in found.items():
        for test, predictions in tests.items():
            for one in predictions:
                systems_of.setdefault(test, {}).setdefault(one.data_hash, []).append(system)
    split: dict[tuple[str, ...], list[str]] = {}
    for test, by_hash in systems_of.items():
        if len(by_hash) == 1:
            continue
        names = {}
        for data_hash, systems in by_hash.items():
            own = sorted({system for system in systems if not _is_base(system)})
            alone = len(own) == 1 and sum(own[0] in others for others in by_hash.values()) == 1
            names[data_hash] = own[0] if alone else data_hash[:8]
        split.setdefault(tuple(names.values()), []).append(test)
        for tests in found.values():
            for one in tests.pop(test, []):
                tests.setdefault(f"{test} ({names[one.data_hash]})", []).append(one)
    return [
        f"{', '.join(tests)}: the datasets of this name differ in content ({', '.join(names)}). Do not compare numbers "
        "across these tables."
        for names, tests in split.items()
    ]


def _leakage_notes(found: _Found, runs: Sequence[_Origin]) -> Iterator[str]:
    """Yield a note for each run that has predictions on its training or validation data."""
    for origin in runs:
        for system in (origin.run.name, _best_of(origin.run.name)):
            for test in (one.samples for tests in found.get(system, {}).values() for one in tests):
                if isinstance(test, Store):
                    yield from (f"{system}: {warning}" for warning in leakage_warnings(origin.folder, test))


def _is_base(system: str) -> bool:
    return system == BASE or system.startswith(f"{BASE} ")


def _one_setting_per_system(found: _Found) -> dict[str, dict[str, tuple[ReportedPredictions, ...]]]:
    """Give each system one set of predictions for a test; others, such as with another template, become own systems.

    If there are several, complete predictions come first.
    """
    split: dict[str, dict[str, tuple[ReportedPredictions, ...]]] = {}
    for system, tests in found.items():
        for test, predictions in tests.items():
            in_order = sorted(predictions, key=lambda one: bool(one.problem))
            for number, one in enumerate(in_order):
                name = (
                    system
                    if number == 0
                    else f"{system}, {_describe_settings(one, in_order[0]) or f'again ({number})'}"
                )
                split.setdefault(name, {})[test] = (one,)
    return split


def _describe_settings(one: ReportedPredictions, first: ReportedPredictions) -> str:
    """Describe the prompt settings that differ from the first predictions'."""
    parts = []
    for name, value in one.settings.items():
        if first.settings.get(name) != value:
            label = name.replace("_", " ")
            parts.append(f"{'with' if value else 'without'} {label}" if isinstance(value, bool) else f"{label} {value}")
    return ", ".join(parts)


def _in_order(
    found: Mapping[str, Mapping[str, tuple[ReportedPredictions, ...]]], runs: Sequence[_Origin]
) -> tuple[ReportedSystem, ...]:
    """Sort systems: base models, then runs with the systems derived from them, then others."""
    by_run = {one.run.name: one.run for one in runs}
    order = {name: place for place, name in enumerate(by_run)}

    def place(name: str) -> tuple[int, int]:
        if _is_base(name.partition(",")[0]) and name not in by_run:
            return (0, 0)
        owner = next((run for run in order if name == run or name.startswith(f"{run}, ")), None)
        return (1, order[owner]) if owner is not None else (2, 0)

    names = sorted(dict.fromkeys([*by_run, *found]), key=place)
    return tuple(
        ReportedSystem(name=name, runs=(by_run[name],) if name in by_run else (), predictions=found.get(name, {}))
        for name in names
    )


def _digest(path: Path) -> str:
    """Hash a predictions file; return its path if it does not exist yet because predictions are unfinished."""
    return file_hash(path).hex() if path.exists() else str(path)
