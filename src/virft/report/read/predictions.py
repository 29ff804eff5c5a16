"""Load the predictions of a folder and score them again for a report."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.blind import BlindScores, most_common_answer, score_blind
from virft.evaluation.blind_data import BlindData, find_blind_data
from virft.evaluation.comparison import ScoreDifference, SystemValue
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.joined import JoinedPredictions, join_predictions
from virft.evaluation.prediction_folders import find_data
from virft.evaluation.predictions import DTYPE, IN_4BIT, PREDICTIONS, PredictionsCard, read_predictions
from virft.evaluation.score import RULES, score_joined
from virft.evaluation.score_cache import read_scores
from virft.metrics.bootstrap import Resampled, difference_intervals, resample
from virft.report.read.diagnostics import diagnose_boxes
from virft.report.render.reported import QuestionScore, ReportedPredictions
from virft.tasks import TASKS
from virft.types import JoinedPrediction, Sample, Unreadable

SCORED_NOW = "parsed and scored for this page"
SCORED_BEFORE = "from scores.json"


def read_reported_predictions(
    folder: Path,
    card: PredictionsCard,
    *,
    near: Path,
    with_intervals: bool = True,
    run: Path | None = None,
    fitted: FittedBlind | None = None,
) -> ReportedPredictions:
    """Load a folder's predictions and score them again; without the dataset, use ``scores.json``.

    ``near``: a folder to start the search for the dataset from. ``with_intervals``: bootstrap confidence intervals.
    ``run``: blind baselines are fitted on its training data, unless another run made the model or holds the folder.
    ``fitted``: baselines that were scored for other predictions of the page; new ones are added.
    """
    unscored = ReportedPredictions(data=card.data, data_hash=card.data_hash, settings=_prompt_settings(card))
    try:
        store = find_data(card, near)
        joined = join_predictions(folder / PREDICTIONS, store)
    except DataError as error:
        try:
            saved = read_scores(folder / "scores.json")
        except DataError:
            return replace(unscored, problem=f"{error}; no scores, no images")
        return replace(
            unscored,
            scores=saved.scores,
            blind=saved.blind,
            scored=f"{SCORED_BEFORE}, scoring rules version {saved.rules or 'unknown'}",
            problem=f"{error}; scores are {SCORED_BEFORE}",
        )
    by_task = joined.by_task
    resampled = {task: _resample(task, found) for task, found in by_task.items()} if with_intervals else {}
    scores = score_joined(joined, store)
    diagnostics = {
        one.task: diagnose_boxes(one.task, by_task[one.task], num_invalid=one.counts.get("num_invalid", 0))
        for one in scores
    }
    train = _find_training_data(store, card, folder, run)
    blind = _score_blind(joined, store, train, resampled, {} if fitted is None else fitted)
    return replace(
        unscored,
        blind={one.task: one for one in blind},
        blind_note=train.note,
        scores=tuple(
            replace(one, intervals=resampled[one.task].intervals()) if with_intervals else one for one in scores
        ),
        scored=f"{SCORED_NOW}, scoring rules version {RULES}",
        samples=store,
        question_scores={
            one.sample.id: _question_score(one) for found in by_task.values() for one in found if one.sample.queried
        },
        read=partial(_read_again, folder / PREDICTIONS, card),
        resampled=resampled,
        diagnostics={task: found for task, found in diagnostics.items() if found is not None},
        problem=_describe_unfinished(folder, by_task.values()),
    )


FittedBlind = dict[Hashable, tuple[BlindScores, ...]]
"""Scores of blind baselines by training data, test set and questions."""


def _score_blind(
    joined: JoinedPredictions,
    store: Store,
    train: BlindData,
    resampled: Mapping[str, Resampled],
    fitted: FittedBlind,
) -> tuple[BlindScores, ...]:
    """Score the blind baselines, or compare these predictions with those that were scored for the same questions."""
    questions = frozenset(one.sample.id for found in joined.by_task.values() for one in found)
    key = (store.folder, store.hash, tuple(one.hash for one in train.stores), questions)
    if key not in fitted:
        fitted[key] = score_blind(joined, store, train.samples, with_intervals=bool(resampled))
        return fitted[key]
    return tuple(_compare_with_blind(one, joined, resampled.get(one.task)) for one in fitted[key])


def _compare_with_blind(blind: BlindScores, joined: JoinedPredictions, resampled: Resampled | None) -> BlindScores:
    """Return the same baselines with the difference to them and the most common answer of other predictions."""
    task, found = TASKS[blind.task], joined.by_task[blind.task]
    first, resampled_first = blind.best_headline
    images = images_of(found)
    statistics = headline_statistics(blind.task, found, images)
    value = next(values[task.headline] for one in statistics if task.headline in (values := one(np.ones(len(images)))))
    seeds = [replace(resampled, images=tuple(images))] if resampled is not None else []
    return replace(
        blind,
        difference=ScoreDifference(
            first=first,
            second=SystemValue(mean=value, low=value, high=value, num_seeds=1),
            value=value - first.mean,
            interval=difference_intervals([resampled_first], seeds).get(task.headline),
        ),
        common_answer=most_common_answer(found),
    )


def _find_training_data(store: Store, card: PredictionsCard, folder: Path, run: Path | None) -> BlindData:
    """Return the data that the blind baselines are fitted on, or the reason why there are none."""
    own = find_blind_data(store, model=card.model, place=folder)
    if own.stores or run is None:
        return own
    others = find_blind_data(store, model=card.model, place=run / "eval" / folder.name)
    return others if others.stores else own


def _prompt_settings(card: PredictionsCard) -> dict[str, Any]:
    names = ("template", "max_completion_tokens", "temperature")
    precision = {DTYPE: card.dtype, IN_4BIT: card.in_4bit}  # also of older predictions, which do not say it
    own = {name: card.settings[name] for name in names if name in card.settings}
    return {"thinking": card.thinking} | own | precision


def _resample(task: str, joined: Sequence[JoinedPrediction]) -> Resampled:
    """Resample the images and compute the headline metrics.

    An image is named by the id of its first sample, because its path differs between copies of the dataset.
    """
    images = images_of(joined)
    names: dict[str, str] = {}
    for one in joined:
        names.setdefault(one.image, one.sample.id)
    return resample(headline_statistics(task, joined, images), [names[image] for image in images])


def _question_score(one: JoinedPrediction) -> QuestionScore:
    """Return the score of a prediction, and the highest confidence of its boxes; 1 for an answer without box."""
    task, answer = TASKS[one.sample.task], one.reading.answer
    confidence = 1.0
    if task.boxes is not None and not isinstance(answer, Unreadable):
        confidence = max((found.confidence for found in task.answer_boxes(answer)), default=0.0)
    return QuestionScore(task.score(one.reading, one.sample.target), confidence)


def _read_again(path: Path, card: PredictionsCard, samples: Sequence[Sample]) -> dict[str, JoinedPrediction]:
    """Parse the predictions of a few samples: the readings of a whole dataset would not fit in memory."""
    predictions = read_predictions(path)
    found = {}
    for one in samples:
        if one.id in predictions:
            prediction, resized = predictions[one.id]
            reading = TASKS[one.task].read_for(
                prediction.text, one, thinking=card.thinking, space=card.box_space, resized=resized
            )
            found[one.id] = JoinedPrediction(one, prediction, reading)
    return found


def _describe_unfinished(folder: Path, by_task: Iterable[Sequence[JoinedPrediction]]) -> str:
    """Return a note that predictions are still being written, or an empty string if they are complete."""
    if (folder / PREDICTIONS).exists():
        return ""
    return f"{folder}: predictions are still being written, {sum(map(len, by_task))} so far"
