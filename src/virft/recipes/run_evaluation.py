"""Evaluate a finished run: predict with its base model and its trained model, score both and compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from virft.config.schema import Config, Dtype
from virft.config.toml_file import load_config
from virft.data.store import Store
from virft.errors import ConfigError, DataError, RunError
from virft.evaluation.blind_data import BlindData, blind_data_of, find_sibling_data, open_blind_data
from virft.evaluation.comparison import Comparison, ScoreDifference, compare_systems, measure
from virft.evaluation.evaluated import (
    EvaluatedPredictions,
    describe_blind,
    evaluate_predictions,
    format_difference,
    headline,
    warning_lines,
)
from virft.evaluation.leakage import leakage_warnings
from virft.evaluation.prediction_folders import find_prediction_folders
from virft.evaluation.prediction_run import require_new_predictions
from virft.evaluation.predictions import PREDICTIONS, PredictionsCard, read_predictions_card
from virft.files import write_text
from virft.metrics.labels import label_of
from virft.models.model_folders import find_model_folder
from virft.models.precision import Precision, find_precision, require_4bit_package
from virft.recipes.own_questions import question_warnings
from virft.report import REPORT
from virft.report.read import report_folders
from virft.tasks import TASKS
from virft.text.prompts import BUILT_IN
from virft.training.run import BEST, CONFIG, MODEL, require_current_format

ShowProgress = Callable[[int, int], None] | None
"""Called with the number of finished predictions and their total."""


FOUR_BITS = "4bit"
"""The trained model with the weights of its language model in 4 bits (NF4), among the names of ``also``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherForm:
    """Another form of the trained model, such as a merged or quantized one."""

    name: str
    """Its folder, or that of the trained model with its precision."""
    evaluated: EvaluatedPredictions
    comparisons: tuple[Comparison, ...]
    """The trained model (first) against this form (second), one for each task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvaluation:
    """The models of a run on one dataset."""

    trained: EvaluatedPredictions
    """The trained model."""
    trained_name: str
    """Folder of the trained model."""
    base: EvaluatedPredictions | None
    """The model that the run started from; None if it was not evaluated."""
    base_name: str
    """Its name or path."""
    comparisons: tuple[Comparison, ...]
    """Base (first) against trained (second), one for each task; none without the base."""
    also: tuple[OtherForm, ...]
    """Other forms of the trained model."""
    leakage: tuple[str, ...]
    """Warnings that the dataset, or some of its images, are training or validation data of the run."""
    report: Path
    """The HTML page."""
    scores: Path
    """``scores.json`` of the trained model, with the comparison and the blind baselines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    """Predictions of one model that an evaluation needs."""

    model: str
    precision: Precision
    folder: Path
    is_complete: bool


def evaluate_run(
    place: Path,
    data: Path,
    *,
    train: Path | None = None,
    limit: int | None = None,
    skip_refused: bool = False,
    resume: bool = False,
    with_intervals: bool = True,
    with_base: bool = True,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
    also: Sequence[str] = (),
    log: Callable[[str], None],
    progress: Callable[[], AbstractContextManager[ShowProgress]] = nullcontext,
) -> RunEvaluation:
    """Predict with the trained and the base model of a run, score both, and write the report of the run.

    ``place``: a run folder, of which the best model by validation is evaluated if there is one, else the last one; or
    ``model`` or ``best`` in it. Complete predictions with the same model, data and settings are used again: in
    ``RUN/eval``, and those of the base model also in the runs next to it. The folder of new ones has the name of the
    dataset's folder, with its hash if another dataset of that name was evaluated before. ``train``: training data of
    the blind baselines; default: that of the run. ``skip_refused``: predict without the samples whose prompt a model
    refuses. ``dtype`` and ``load_in_4bit``: precision of both models; default: that of the run. ``also``: other forms
    of the trained model, compared with it: model folders, or "4bit". ``progress``: a new progress bar for each model.

    Everything that can be refused is refused before a model is loaded. Raises ``RunError`` for a folder that is no
    finished run or holds other predictions, ``DataError`` for a dataset that cannot be used.
    """
    run, model = find_model(place)
    config = load_config(run / CONFIG).config
    precision = find_precision(model, dtype=dtype, in_4bit=load_in_4bit)
    store = Store(data)
    store.check(decode=True)
    leakage = tuple(leakage_warnings(run, store))
    blind_data = open_blind_data(train, store) if train else _blind_data(config, store, run)
    planned = _plan_models(
        run, model, config, store, limit=limit, precision=precision, also=also, with_base=with_base, resume=resume
    )
    options: dict[str, Any] = {"resume": resume, "limit": limit, "skip_refused": skip_refused}
    _predict_missing(planned, config, store, options, log=log, progress=progress)
    evaluated = [
        evaluate_predictions(one.folder / PREDICTIONS, store, blind_data, with_intervals=with_intervals)
        for one in planned
    ]
    trained, *others = evaluated
    base_found = others[-1] if with_base else None
    comparisons = () if base_found is None else _compare(base_found, trained, store)
    trained.write(comparisons=comparisons)
    for one, scored in zip(planned[1:], others, strict=True):
        if one.folder.is_relative_to(run):
            scored.write()
    outside = [one.folder for one in planned if not one.folder.is_relative_to(run)]
    page = report_folders([run, *outside], with_intervals=with_intervals)
    write_text(run / REPORT, page.encode(errors="backslashreplace").decode())
    return RunEvaluation(
        trained=trained,
        trained_name=str(model),
        base=base_found,
        base_name=config.model.path,
        comparisons=comparisons,
        also=tuple(
            OtherForm(
                name=f"{one.model} in 4 bits" if form == FOUR_BITS else one.model,
                evaluated=scored,
                comparisons=_compare(trained, scored, store),
            )
            for form, one, scored in zip(also, planned[1:], others, strict=False)
        ),
        leakage=leakage,
        report=run / REPORT,
        scores=trained.scores_path,
    )


def _plan_models(
    run: Path,
    model: Path,
    config: Config,
    store: Store,
    *,
    limit: int | None,
    precision: Precision,
    also: Sequence[str],
    with_base: bool,
    resume: bool,
) -> list[_Planned]:
    """Return the predictions that are needed: of the trained model, its other forms, and the base, in this order."""
    name = store.folder.absolute().name + (f"_first_{limit}" if limit is not None and limit < len(store) else "")
    number = len(store) if limit is None else min(limit, len(store))
    plan = partial(_plan, config=config, store=store, number=number, resume=resume)
    planned = [plan(str(model), precision, _folder_for(store, run / "eval" / name))]
    for form in also:
        folder = _folder_for(store, run / "eval" / f"{name}_{Path(form).name}")
        planned.append(plan(*_form(form, model, precision), folder))
    if with_base:
        base = _find_base_predictions(run, config, store, number, precision)
        folder = base or _folder_for(store, run / "eval" / f"base_{name}")
        planned.append(plan(config.model.path, precision, folder))
    for one in planned:
        if not one.is_complete:
            find_model_folder(one.model)
            if one.precision.in_4bit:
                require_4bit_package()
    return planned


def _predict_missing(
    planned: Sequence[_Planned],
    config: Config,
    store: Store,
    options: Mapping[str, Any],
    *,
    log: Callable[[str], None],
    progress: Callable[[], AbstractContextManager[ShowProgress]],
) -> None:
    """Write the predictions that do not exist yet."""
    for one in planned:
        if one.is_complete:
            _log_existing(one, store, log)
        else:
            # not before everything is checked: it imports torch
            from virft.recipes.evaluate import predict_as_trained

            log(f"predictions of {one.model} on {store.folder} -> {one.folder}")
            with progress() as show:
                predict_as_trained(
                    config, one.model, store, one.folder, precision=one.precision, progress=show, log=log, **options
                )


def _compare(first: EvaluatedPredictions, second: EvaluatedPredictions, store: Store) -> tuple[Comparison, ...]:
    return tuple(compare_systems([measure(first.path, store)], [measure(second.path, store)]))


def _form(name: str, trained: Path, precision: Precision) -> tuple[str, Precision]:
    """Return path and precision of another form of the trained model; ``ConfigError`` if it is none."""
    if name != FOUR_BITS:
        folder = find_model_folder(name)
        return name, find_precision(folder)
    if precision.in_4bit:
        raise ConfigError(f"--also {FOUR_BITS}: {trained} has 4 bits already; expected another form of the model")
    return str(trained), Precision(precision.dtype, in_4bit=True)


def _log_existing(planned: _Planned, store: Store, log: Callable[[str], None]) -> None:
    """Log that complete predictions are used, with warnings about them."""
    shown = _from_here(planned.folder)
    log(f"{shown}: predictions of {planned.model} exist already and are used")
    card = read_predictions_card(planned.folder / PREDICTIONS)
    for warning in question_warnings(store, thinking=card.thinking, space=card.box_space):
        log(f"warning: {warning}")
    if _is_older(planned.folder, Path(planned.model)):
        log(f"warning: {planned.model} is newer than {shown}; delete that folder to predict again")


def _from_here(folder: Path) -> Path:
    """Return the path of a folder from the current one, if it is below that."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def find_model(place: Path) -> tuple[Path, Path]:
    """Return the folder of a finished run and that of its model: ``best`` if it exists, else ``model``.

    ``place`` may also be ``model`` or ``best`` itself. ``RunError``: there is no run, or it is not finished.
    """
    chosen = place.name if place.name in (MODEL, BEST) and (place.absolute().parent / CONFIG).is_file() else None
    run = place.parent if chosen else place
    if not (run / CONFIG).is_file():
        what = "holds no run" if run.is_dir() else "does not exist"
        raise RunError(
            f"{place}: {what}; expected a run folder (with {CONFIG}), such as `virft grpo` writes; for the "
            "predictions of any model use `virft predict`"
        )
    require_current_format(run)
    if not (run / MODEL).is_dir():
        raise RunError(f"{run}: has no trained model yet; expected a finished run; resume its training with --resume")
    model = run / (chosen or (BEST if (run / BEST).is_dir() else MODEL))
    if not model.is_dir():
        raise RunError(f"{model}: does not exist; expected {run / MODEL}")
    return run, model


def _blind_data(config: Config, store: Store, run: Path) -> BlindData:
    try:
        found = blind_data_of(config, store, near=run)
    except DataError as error:
        found = BlindData(stores=(), note=str(error))
    return found if found.stores else find_sibling_data(store) or found


def _folder_for(store: Store, folder: Path) -> Path:
    """Return the folder, or one with the dataset's hash in its name if it holds predictions on another dataset."""
    try:
        data_hash = read_predictions_card(folder / PREDICTIONS).data_hash
    except DataError:
        return folder
    return folder if data_hash == store.hash else folder.with_name(f"{folder.name}_{store.hash[:8]}")


def _plan(
    model: str, precision: Precision, folder: Path, *, config: Config, store: Store, number: int, resume: bool
) -> _Planned:
    """Return what a folder needs; ``RunError`` if it holds other predictions, or unfinished ones without ``resume``."""
    if not (folder / PREDICTIONS).is_file():
        require_new_predictions(folder, resume=resume)
        return _Planned(model=model, precision=precision, folder=folder, is_complete=False)
    card = read_predictions_card(folder / PREDICTIONS)
    differences = _differences(card, model, config, store, number, precision)
    if differences:
        what, (saved, now) = next(iter(differences.items()))
        raise RunError(
            f"{folder}: holds predictions made with other settings: {what} is {saved!r} (saved) and {now!r} (now); "
            "expected none, or the same; delete the folder to predict again"
        )
    return _Planned(model=model, precision=precision, folder=folder, is_complete=True)


def _differences(
    card: PredictionsCard, model: str, config: Config, store: Store, number: int, precision: Precision
) -> Mapping[str, tuple[Any, Any]]:
    """Return the settings that differ from those of this evaluation: name -> (saved, now)."""
    settings = card.settings
    template = config.prompt.template
    pairs = {
        "model": (_resolved(card.model), _resolved(model)),
        "the data's hash": (card.data_hash[:12], store.hash[:12]),
        "the number of questions": (card.num_samples, number),
        "thinking": (card.thinking, config.prediction_thinking),
        "dtype": (card.dtype, precision.dtype),
        "load_in_4bit": (card.in_4bit, precision.in_4bit),
        "max_completion_tokens": (settings.get("max_completion_tokens"), config.sampling.max_completion_tokens),
        # "auto" is resolved by the model's card, and a path by its text: only names of templates can be compared
        **({"template": (settings.get("template"), template)} if template in BUILT_IN else {}),
    }
    return {name: both for name, both in pairs.items() if both[0] != both[1]}


def _resolved(model: str) -> str:
    """Return the absolute path of a model folder; a hub id or a built-in name unchanged."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _find_base_predictions(run: Path, config: Config, store: Store, number: int, precision: Precision) -> Path | None:
    """Return complete predictions of the base model with equal settings, of this run or of a run next to it.

    Copies of run folders come last.
    """
    places = (path.parent for path in run.absolute().parent.glob(f"*/{CONFIG}"))
    neighbours = sorted(places, key=lambda place: (not _is_original(place), place))
    for place in [run, *(one for one in neighbours if one != run.absolute())]:
        for folder in find_prediction_folders(place):
            try:
                card = read_predictions_card(folder / PREDICTIONS)
            except DataError:
                continue
            if (folder / PREDICTIONS).is_file() and not _differences(
                card, config.model.path, config, store, number, precision
            ):
                return folder
    return None


def _is_original(run: Path) -> bool:
    """Return True if a run folder is the one in its config: ``run.dir``."""
    try:
        return Path(load_config(run / CONFIG).config.run.dir).resolve() == run.resolve()
    except ConfigError:
        return False


def _is_older(predictions: Path, model: Path) -> bool:
    """Return True if a model folder was written after the predictions, as when its run was extended."""
    weights = [path.stat().st_mtime for path in model.glob("*.safetensors")] if model.is_dir() else []
    return bool(weights) and (predictions / PREDICTIONS).stat().st_mtime < max(weights)


# --- text ---


def run_evaluation_lines(found: RunEvaluation) -> Iterator[str]:
    """Yield headlines, difference, best blind baseline, warnings and files."""
    several = len(found.trained.scores) > 1
    blind = {one.task: one for one in found.trained.blind}
    differences = {one.task: one.differences.get(TASKS[one.task].headline) for one in found.comparisons}
    base = {one.task: one for one in found.base.scores} if found.base is not None else {}
    for scores in found.trained.scores:
        if several:
            yield f"{scores.task}:"
        yield f"trained ({found.trained_name}): {headline(scores)}"
        if scores.task in base:
            yield f"base ({found.base_name}): {headline(base[scores.task])}"
        if (difference := differences.get(scores.task)) is not None:
            name = label_of(TASKS[scores.task].headline)
            yield f"trained - base: {name} {format_difference(difference)}: {_verdict(difference)}"
        if scores.task in blind:
            yield describe_blind(blind[scores.task], "the trained model")
        for other in found.also:
            yield from _lines_of_form(other, scores.task)
    yield from warning_lines(found.trained)
    for warning in dict.fromkeys([*found.leakage, *(text for one in found.comparisons for text in one.warnings)]):
        yield f"warning: {warning}"
    yield f"report: {found.report}; all scores: {found.scores}"


def _lines_of_form(other: OtherForm, task: str) -> Iterator[str]:
    """Yield the scores of another form of the trained model, and their differences from it."""
    scores = next(one for one in other.evaluated.scores if one.task == task)
    yield f"also ({other.name}): {headline(scores)}"
    differences = next(one.differences for one in other.comparisons if one.task == task)
    for metric in TASKS[task].metrics:
        if metric.in_comparison and (difference := differences.get(metric.name)) is not None:
            yield f"  minus trained: {label_of(metric.name)} {format_difference(difference)}: {_verdict(difference)}"


def _verdict(difference: ScoreDifference) -> str:
    if not difference.is_clear:
        return "not distinguishable"
    return "better" if difference.value > 0 else "worse"
