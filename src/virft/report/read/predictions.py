"""Load the predictions of a folder and score them again for a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from virft.errors import DataError
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.joined import join_predictions
from virft.evaluation.prediction_folders import find_data
from virft.evaluation.predictions import PREDICTIONS, PredictionsCard, read_predictions
from virft.evaluation.score import RULES, score_joined
from virft.evaluation.score_cache import read_scores
from virft.metrics.bootstrap import Resampled, resample
from virft.report.render.reported import QuestionScore, ReportedPredictions
from virft.tasks import TASKS
from virft.types import JoinedPrediction, Reading, Sample, Unreadable

SCORED_NOW = "parsed and scored for this page"
SCORED_BEFORE = "from scores.json"


def read_reported_predictions(
    folder: Path, card: PredictionsCard, *, near: Path, with_intervals: bool = True
) -> ReportedPredictions:
    """Load a folder's predictions and score them again; without the dataset, use ``scores.json``.

    ``near``: a folder to start the search for the dataset from. ``with_intervals``: bootstrap confidence intervals.
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
            scored=f"{SCORED_BEFORE}, scoring rules version {saved.rules or 'unknown'}",
            problem=f"{error}; scores are {SCORED_BEFORE}",
        )
    by_task = joined.by_task
    resampled = {task: _resample(task, found) for task, found in by_task.items()} if with_intervals else {}
    return replace(
        unscored,
        scores=tuple(
            replace(one, intervals=resampled[one.task].intervals()) if with_intervals else one
            for one in score_joined(joined, store)
        ),
        scored=f"{SCORED_NOW}, scoring rules version {RULES}",
        samples=store,
        question_scores={
            one.sample.id: _question_score(one) for found in by_task.values() for one in found if one.sample.queried
        },
        read=partial(_read_again, folder / PREDICTIONS, card),
        resampled=resampled,
        problem=_describe_unfinished(folder, by_task.values()),
    )


def _prompt_settings(card: PredictionsCard) -> dict[str, Any]:
    names = ("template", "max_completion_tokens", "temperature")
    return {"thinking": card.thinking} | {name: card.settings[name] for name in names if name in card.settings}


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


def _read_again(path: Path, card: PredictionsCard, samples: Sequence[Sample]) -> dict[str, Reading]:
    """Parse the predictions of a few samples: the readings of a whole dataset would not fit in memory."""
    predictions = read_predictions(path)
    found = {}
    for one in samples:
        if one.id in predictions:
            prediction, resized = predictions[one.id]
            found[one.id] = TASKS[one.task].read_for(
                prediction.text, one, thinking=card.thinking, space=card.box_space, resized=resized
            )
    return found


def _describe_unfinished(folder: Path, by_task: Iterable[Sequence[JoinedPrediction]]) -> str:
    """Return a note that predictions are still being written, or an empty string if they are complete."""
    if (folder / PREDICTIONS).exists():
        return ""
    return f"{folder}: predictions are still being written, {sum(map(len, by_task))} so far"
