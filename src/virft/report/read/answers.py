"""The predictions of a folder, read and scored again, as a report shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from virft.errors import DataError
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.joined import read_answered
from virft.evaluation.prediction_folders import find_data
from virft.evaluation.predictions import PREDICTIONS, PredictionsCard, read_predictions
from virft.evaluation.score import RULES, score_answered
from virft.evaluation.score_cache import read_scores
from virft.metrics.bootstrap import Resampled, resample
from virft.report.render.reported import QuestionScore, ReportedAnswers
from virft.tasks import TASKS
from virft.types import JoinedPrediction, Reading, Sample, Unreadable

SCORED_NOW = "read and scored for this page"
SCORED_BEFORE = "as scores.json says"


def read_reported_answers(
    folder: Path, card: PredictionsCard, *, near: Path, with_intervals: bool = True
) -> ReportedAnswers:
    """The predictions of a folder, read and scored again where the data set is at hand, else as ``scores.json`` says.

    ``near``: a folder to look for the data set from.
    """
    told = ReportedAnswers(data=card.data, data_hash=card.data_hash, asked=_asked(card))
    try:
        store = find_data(card, near)
        read = read_answered(folder / PREDICTIONS, store)
    except DataError as error:
        try:
            kept = read_scores(folder / "scores.json")
        except DataError:
            return replace(told, problem=f"{error}; no scores, no pictures")
        return replace(
            told,
            scores=kept.scores,
            scored=f"{SCORED_BEFORE}, by rules {kept.rules or 'that it does not tell'}",
            problem=f"{error}; scores are {SCORED_BEFORE}",
        )
    answered = read.by_task
    resampled = {task: _resample(task, found) for task, found in answered.items()} if with_intervals else {}
    return replace(
        told,
        scores=tuple(
            replace(one, intervals=resampled[one.task].intervals()) if with_intervals else one
            for one in score_answered(read, store)
        ),
        scored=f"{SCORED_NOW}, by rules {RULES}",
        samples=store,
        question_scores={
            one.sample.id: _question_score(one) for found in answered.values() for one in found if one.sample.asked
        },
        read=partial(_read_again, folder / PREDICTIONS, card),
        resampled=resampled,
        problem=_incomplete(folder, answered.values()),
    )


def _asked(card: PredictionsCard) -> dict[str, Any]:
    names = ("template", "max_completion_tokens", "temperature")
    return {"thinking": card.thinking} | {name: card.settings[name] for name in names if name in card.settings}


def _resample(task: str, answered: Sequence[JoinedPrediction]) -> Resampled:
    """The headline numbers over resamples of the images, which are called by the first question about them.

    Their paths are others in another copy of the data set.
    """
    images = images_of(answered)
    names: dict[str, str] = {}
    for one in answered:
        names.setdefault(one.image, one.sample.id)
    return resample(headline_statistics(task, answered, images), [names[image] for image in images])


def _question_score(one: JoinedPrediction) -> QuestionScore:
    """The score of a prediction, and the highest confidence of its boxes; 1 for an answer that cannot have boxes."""
    task, answer = TASKS[one.sample.task], one.reading.answer
    confidence = 1.0
    if task.boxes is not None and not isinstance(answer, Unreadable):
        confidence = max((found.confidence for found in task.answer_boxes(answer)), default=0.0)
    return QuestionScore(task.score(one.reading, one.sample.target), confidence)


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


def _incomplete(folder: Path, answered: Iterable[Sequence[JoinedPrediction]]) -> str:
    """That predictions are not finished, in words; empty if they are."""
    if (folder / PREDICTIONS).exists():
        return ""
    return f"{folder}: predictions are still being written, {sum(map(len, answered))} so far"
