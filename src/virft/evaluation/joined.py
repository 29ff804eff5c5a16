"""Samples with what was written about them, read again."""

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
class AnsweredSet:
    """The answers to a data set by task, and how many questions of each task the set holds."""

    card: PredictionsCard
    by_task: Mapping[str, Sequence[JoinedPrediction]]
    num_questions: Mapping[str, int]


def read_answered(path: Path, store: Store) -> AnsweredSet:
    """The texts of a predictions file, read again beside their samples.

    A question that a protocol leaves out is answered by nothing. ``DataError``: answers to another data set or to a
    sample that is not in it, or none at all.
    """
    card = read_predictions_card(path)
    if card.data_hash != store.hash:
        raise DataError(
            f"{path}: answers to another data set ({card.data}, hash {card.data_hash[:12]}); "
            f"{store.folder} has hash {store.hash[:12]}"
        )
    with collector_paused():
        return _put_together(path, store, card)


def _put_together(path: Path, store: Store, card: PredictionsCard) -> AnsweredSet:
    predictions = read_predictions(path)
    if not predictions:
        raise DataError(f"{path}: holds no answers; expected {card.num_samples}")
    answered: dict[str, list[JoinedPrediction]] = {}
    num_questions: Counter[str] = Counter()
    for number, sample in enumerate(store):
        num_questions[sample.task] += 1
        if not sample.asked and number < card.num_samples:
            nothing = Prediction(sample_id=sample.id, text="", finish_reason=FinishReason.STOP)
            absent = TASKS[sample.task].absent
            answer = Unreadable(reason="not queried") if absent is None else absent
            reading = Reading(text="", well_formed=True, answer=answer)
            answered.setdefault(sample.task, []).append(JoinedPrediction(sample, nothing, reading))
        elif (found := predictions.pop(sample.id, None)) is not None:
            prediction, resized = found
            reading = _read(sample.task, prediction.text, card.thinking, card.box_space, sample.target_size, resized)
            answered.setdefault(sample.task, []).append(JoinedPrediction(sample, prediction, reading))
    if predictions:
        raise DataError(f"{path}: sample {min(predictions)!r} is not in {store.folder}")
    return AnsweredSet(card=card, by_task=dict(sorted(answered.items())), num_questions=num_questions)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Millions of small things are made here that all stay; the collector would go through them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@lru_cache(maxsize=4096)
def _read(task: str, text: str, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
    """Kept, for of many questions about absent classes the answer is the same text."""
    return TASKS[task].read(text, thinking=thinking, space=space, original=original, resized=resized)
