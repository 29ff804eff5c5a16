"""Join predictions with their samples and parse the completions again."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.predictions import PredictionsCard, read_predictions, read_predictions_card
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.types import FinishReason, ImageSize, JoinedPrediction, Prediction, Reading, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedPredictions:
    """The predictions on a dataset by task, and the number of questions of each task in the dataset."""

    card: PredictionsCard
    by_task: Mapping[str, Sequence[JoinedPrediction]]
    num_questions: Mapping[str, int]


def join_predictions(path: Path, store: Store) -> JoinedPredictions:
    """Parse the completions of a predictions file and join them with their samples.

    A question that the protocol does not query counts as answered with ``Task.absent``, such as "no objects".
    ``DataError``: the file holds no predictions, or predictions for another dataset or for a sample that is not in it.
    """
    card = read_predictions_card(path)
    if card.data_hash != store.hash:
        raise DataError(
            f"{path}: holds predictions for another dataset ({card.data}, hash {card.data_hash[:12]}); "
            f"{store.folder} has hash {store.hash[:12]}"
        )
    with collector_paused():
        return _join(path, store, card)


def _join(path: Path, store: Store, card: PredictionsCard) -> JoinedPredictions:
    predictions = read_predictions(path)
    if not predictions:
        raise DataError(f"{path}: holds no predictions; expected {card.num_samples}")
    joined: dict[str, list[JoinedPrediction]] = {}
    num_questions: Counter[str] = Counter()
    for number, sample in enumerate(store):
        num_questions[sample.task] += 1
        if not sample.queried and number < card.num_samples:
            empty = Prediction(sample_id=sample.id, text="", finish_reason=FinishReason.STOP)
            absent = TASKS[sample.task].absent
            answer = Unreadable(reason="not queried") if absent is None else absent
            reading = Reading(text="", well_formed=True, answer=answer)
            joined.setdefault(sample.task, []).append(JoinedPrediction(sample, empty, reading))
        elif (found := predictions.pop(sample.id, None)) is not None:
            prediction, resized = found
            reading = _read(sample.task, prediction.text, card.thinking, card.box_space, sample.target_size, resized)
            joined.setdefault(sample.task, []).append(JoinedPrediction(sample, prediction, reading))
    if predictions:
        raise DataError(f"{path}: sample {min(predictions)!r} is not in {store.folder}")
    return JoinedPredictions(card=card, by_task=dict(sorted(joined.items())), num_questions=num_questions)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause garbage collection: millions of small objects are made that all survive, and each collection visits all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@lru_cache(maxsize=4096)
def _read(task: str, text: str, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
    """Parse a completion; cached, because many questions about absent classes have the same completion."""
    return TASKS[task].read(text, thinking=thinking, space=space, original=original, resized=resized)
