"""From folders of runs and predictions to a page: what the stages wrote is read into the nouns of the report.

Whatever is missing or broken in a folder is told on the page; only a folder that is neither a run nor holds predictions
is refused.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from virft.data.store import Store
from virft.data.store_writer import file_hash
from virft.errors import DataError, RunError
from virft.evaluation.answered import Answered, read_answered
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.kept_scores import read_scores
from virft.evaluation.prediction_folders import data_name, find_data, find_prediction_folders, holds_predictions
from virft.evaluation.predictions import PREDICTIONS, PredictionsCard, read_predictions, read_predictions_card
from virft.evaluation.score import score_predictions
from virft.metrics.bootstrap import Resampled, resample
from virft.metrics.question_score import question_score
from virft.report.reported import QuestionScore, ReportedAnswers, ReportedRun, ReportedSystem, Section
from virft.report.run_page import NUM_PICTURES, render_run_page
from virft.report.shown_groups import chosen_rollouts
from virft.tasks import TASKS
from virft.training.run import CARD, CONFIG, METRICS, ROLLOUTS, TIMINGS, RunFolder
from virft.types import Detections, Reading, Sample, TaskName

BASE = "base"
SCORED_NOW = "read and scored for this page"
SCORED_BEFORE = "as scores.json says"


def report_folders(
    places: Sequence[Path],
    *,
    num_pictures: int = NUM_PICTURES,
    with_intervals: bool = True,
    title: str | None = None,
    intro: str = "",
    sections: Sequence[Section] = (),
) -> str:
    """The page about run folders and folders of predictions, in any order."""
    systems, notes = read_systems(places, with_intervals=with_intervals)
    return render_run_page(
        systems,
        title=title or ", ".join(short_names(places)),
        intro=intro,
        sections=sections,
        notes=notes,
        num_pictures=num_pictures,
    )


def read_systems(
    places: Sequence[Path], *, with_intervals: bool = True
) -> tuple[tuple[ReportedSystem, ...], tuple[str, ...]]:
    """The systems of some folders, and notes on what must not be compared or was not read.

    ``base`` is the model that the runs began with, as far as predictions of it are there; it comes first. Then each
    run, with predictions of its model; then models that belong to none of the runs.
    """
    folders = [place for place in dict.fromkeys(places) if is_run(place)]
    for place in places:
        if place not in folders and not holds_predictions(place):
            raise RunError(
                f"{place}: {'no run' if place.is_dir() else 'no such folder'}; expected a run folder (with {CONFIG}), "
                f"or a folder of predictions (with {PREDICTIONS} and {CARD})"
            )
    runs = [
        _Origin(folder=folder, run=read_run(folder, name=name))
        for folder, name in zip(folders, short_names(folders), strict=True)
    ]
    found: _Found = {}
    scored: dict[tuple[str, str, str], ReportedAnswers] = {}
    notes: list[str] = []
    for folder, near in _prediction_folders(places, folders):
        try:
            card = read_predictions_card(folder / PREDICTIONS)
        except DataError as error:
            notes.append(str(error))
            continue
        # the base model's answers may lie in every run: equal ones are scored once, and count once
        same = (_system_of(card, folder, runs), repr(replace(card, data="")), _digest(folder / PREDICTIONS))
        if same not in scored or not scored[same].scores:
            scored[same] = read_reported_answers(folder, card, near=near, with_intervals=with_intervals)
            found.setdefault(same[0], {}).setdefault(data_name(card), []).append(scored[same])
    for origin in runs:
        # where only the best model was asked, it stands for its run
        best = found.pop(_best_of(origin.run.name), None) if origin.run.name not in found else None
        if best is not None:
            found[origin.run.name] = best
    notes += _split_by_content(found)
    systems = _in_order(_one_way_of_asking(found), runs)
    return systems, tuple(notes)


def is_run(folder: Path) -> bool:
    """Whether a training stage has begun there."""
    return (folder / CONFIG).is_file()


def read_run(folder: Path, *, name: str) -> ReportedRun:
    """A run folder in whatever state it is."""
    problems: list[str] = []
    logs = RunFolder(folder)
    config, settings = _read_config(folder, problems)
    card = _read_card(folder, problems)
    rollouts = logs.records(ROLLOUTS)
    run = ReportedRun(
        name=name,
        folder=str(folder),
        card=card,
        settings=settings,
        config=config,
        metrics=logs.records(METRICS),
        timings=logs.records(TIMINGS),
        rollouts=rollouts,
        problems=tuple(problems),
    )
    wanted = {str(one.get("sample")) for one in chosen_rollouts(rollouts)}
    return replace(run, samples=_find_samples(settings, folder, wanted))


def read_reported_answers(
    folder: Path, card: PredictionsCard, *, near: Path, with_intervals: bool = True
) -> ReportedAnswers:
    """The predictions of a folder, read and scored again where the data set is at hand, else as ``scores.json`` says.

    ``near``: a folder to look for the data set from.
    """
    told = ReportedAnswers(data=card.data, data_hash=card.data_hash, asked=_asked(card))
    try:
        store = find_data(card, near)
        answered = read_answered(folder / PREDICTIONS, store).by_task
    except DataError as error:
        try:
            kept = read_scores(folder / "scores.json")
        except DataError:
            return replace(told, problem=f"{error}; no scores, no pictures")
        return replace(told, scores=kept, scored=SCORED_BEFORE, problem=f"{error}; scores are {SCORED_BEFORE}")
    resampled = {task: _resample(task, found) for task, found in answered.items()} if with_intervals else {}
    return replace(
        told,
        scores=tuple(
            replace(one, intervals=resampled[one.task].intervals()) if with_intervals else one
            for one in score_predictions(folder / PREDICTIONS, store)
        ),
        scored=SCORED_NOW,
        samples=store,
        question_scores={
            one.sample.id: QuestionScore(question_score(one.reading, one.sample.target), _surest(one.reading))
            for found in answered.values()
            for one in found
            if one.sample.asked
        },
        read=partial(_read_again, folder / PREDICTIONS, card),
        resampled=resampled,
        problem=_incomplete(folder, answered.values()),
    )


def short_names(folders: Iterable[Path]) -> list[str]:
    """A name for each folder that tells it from the others: its own, or as much of its path as it takes.

    A last part that all have in common says nothing, nor does ``run``, as the quickstart's is called.

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
    """A run and where it lies."""

    folder: Path
    run: ReportedRun


def _prediction_folders(places: Sequence[Path], runs: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Folders of predictions, each once, with the folder to look for their data from."""
    seen = set()
    for place in places:
        for folder in find_prediction_folders(place) if place in runs else [place]:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder, place


def _system_of(card: PredictionsCard, folder: Path, runs: Sequence[_Origin]) -> str:
    """Whose predictions these are: of a run's model, of the model that runs began with, or of another one."""
    for origin in runs:
        for kind, name in (("model", origin.run.name), ("best", _best_of(origin.run.name))):
            if _is_model(card.model, origin.folder / kind, inside=folder.is_relative_to(origin.folder)):
                return name
    bases = {str(one.run.settings["model.path"]): None for one in runs if "model.path" in one.run.settings}
    if card.model in bases or any(_same_place(card.model, base) for base in bases):
        return BASE if len(bases) == 1 else f"{BASE} {_model_name(card.model)}"
    return _model_name(card.model)


def _best_of(run: str) -> str:
    return f"{run}, best by validation"


def _is_model(model: str, place: Path, *, inside: bool) -> bool:
    """Whether a card's model is a run's; ``inside`` the run's own folder its last two parts will do: it was moved."""
    return _same_place(model, str(place)) or (inside and Path(model).parts[-2:] == place.absolute().parts[-2:])


def _same_place(one: str, other: str) -> bool:
    return Path(one).exists() and Path(one).resolve() == Path(other).resolve()


def _model_name(model: str) -> str:
    """A model's name: of ``runs/a/model``, the run's."""
    parts = Path(model).parts
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else "/".join(parts[-2:])


_Found = dict[str, dict[str, list[ReportedAnswers]]]
"""System -> test set -> answers."""


def _split_by_content(found: _Found) -> list[str]:
    """Tests of one name and other content get names of their own, in place; what was split, in words.

    They are told apart by the system that alone was asked them, the base model aside, else by their hash.
    """
    askers: dict[str, dict[str, list[str]]] = {}
    for system, tests in found.items():
        for test, answers in tests.items():
            for one in answers:
                askers.setdefault(test, {}).setdefault(one.data_hash, []).append(system)
    split: dict[tuple[str, ...], list[str]] = {}
    for test, by_hash in askers.items():
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
        f"{', '.join(tests)}: not the same questions everywhere, the data differs ({', '.join(names)}). Do not compare "
        "numbers across these tables."
        for names, tests in split.items()
    ]


def _is_base(system: str) -> bool:
    return system == BASE or system.startswith(f"{BASE} ")


def _one_way_of_asking(found: _Found) -> dict[str, dict[str, tuple[ReportedAnswers, ...]]]:
    """Each system with one lot of answers to a test; others, such as with another template, as systems of their own."""
    split: dict[str, dict[str, tuple[ReportedAnswers, ...]]] = {}
    for system, tests in found.items():
        for test, answers in tests.items():
            for number, one in enumerate(answers):
                name = system if number == 0 else f"{system}, {_way(one, answers[0]) or f'again ({number})'}"
                split.setdefault(name, {})[test] = (one,)
    return split


def _way(one: ReportedAnswers, first: ReportedAnswers) -> str:
    """How it was asked otherwise than the first."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in one.asked.items() if first.asked.get(name) != value
    )


def _in_order(
    found: Mapping[str, Mapping[str, tuple[ReportedAnswers, ...]]], runs: Sequence[_Origin]
) -> tuple[ReportedSystem, ...]:
    """Base models, then runs with what belongs to them, then others."""
    by_run = {one.run.name: one.run for one in runs}
    order = {name: place for place, name in enumerate(by_run)}

    def place(name: str) -> tuple[int, int]:
        if _is_base(name.partition(",")[0]) and name not in by_run:
            return (0, 0)
        owner = next((run for run in order if name == run or name.startswith(f"{run}, ")), None)
        return (1, order[owner]) if owner is not None else (2, 0)

    names = sorted(dict.fromkeys([*by_run, *found]), key=place)
    return tuple(
        ReportedSystem(name=name, runs=(by_run[name],) if name in by_run else (), answers=found.get(name, {}))
        for name in names
    )


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
    except ValueError as error:
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


def _digest(path: Path) -> str:
    """Of a file that may not be finished, so not be there."""
    return file_hash(path).hex() if path.exists() else str(path)


def _asked(card: PredictionsCard) -> dict[str, Any]:
    names = ("template", "max_completion_tokens", "temperature")
    return {"thinking": card.thinking} | {name: card.settings[name] for name in names if name in card.settings}


def _resample(task: TaskName, answered: Sequence[Answered]) -> Resampled:
    """The headline numbers over resamples of the images, which are called by the first question about them.

    Their paths are others in another copy of the data set.
    """
    images = images_of(answered)
    names: dict[str, str] = {}
    for one in answered:
        names.setdefault(one.image, one.sample.id)
    return resample(headline_statistics(task, answered, images), [names[image] for image in images])


def _surest(reading: Reading) -> float:
    answer = reading.answer
    return max((item.confidence for item in answer.items), default=0.0) if isinstance(answer, Detections) else 1.0


def _read_again(path: Path, card: PredictionsCard, samples: Sequence[Sample]) -> dict[str, Reading]:
    """What was answered to a few samples: readings of all would fill the memory."""
    predictions = read_predictions(path)
    found = {}
    for one in samples:
        if one.id in predictions:
            prediction, resized = predictions[one.id]
            found[one.id] = TASKS[one.task].read_for(
                prediction.text, one, thinking=card.thinking, space=card.box_space, resized=resized
            )
    return found


def _incomplete(folder: Path, answered: Iterable[Sequence[Answered]]) -> str:
    """That predictions are not finished, in words; empty if they are."""
    if (folder / PREDICTIONS).exists():
        return ""
    return f"{folder}: predictions are still being written, {sum(map(len, answered))} so far"
