"""Blind baselines: answers that ignore the image, fitted on training samples and scored like a model's predictions.

A model that is not better than the best of them has not shown that it uses the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from virft.data.store import Store
from virft.evaluation.comparison import Measured, ScoreDifference, SystemValue, system_value
from virft.evaluation.headlines import headline_statistics, image_ratios, images_of
from virft.evaluation.joined import JoinedPredictions, collector_paused
from virft.evaluation.score import score_joined
from virft.metrics.bootstrap import Resampled, difference_intervals, resample
from virft.tasks import TASKS
from virft.tasks.task import BlindAnswer
from virft.types import Answer, FinishReason, JoinedPrediction, Prediction, Reading, Sample, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindBaseline:
    """Scores of an image-blind answer, computed as those of a model; see ``Scores``."""

    name: str
    """Such as "mean box" or "No Objects"."""
    task: str
    """Task of the questions."""
    values: Mapping[str, float]
    """Metric values by name, the same names as in ``Scores.values``."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % bootstrap confidence intervals by name, resampling images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonAnswer:
    """The largest group of identical readable answers."""

    count: int
    """Number of answers of the group."""
    num_answers: int
    """Number of all answers, readable or not."""
    description: str
    """Such as "the same box" or '"No Objects"'."""

    def __str__(self) -> str:
        return f"{self.count} of {self.num_answers} answers are {self.description}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindScores:
    """Blind baselines of one task on the questions that a model has answered, and the model's margin over the best."""

    task: str
    """Task of the questions."""
    metric: str
    """Name of the headline metric, as in ``Scores.values``."""
    baselines: tuple[BlindBaseline, ...]
    """The baselines, best headline metric first; never empty."""
    best_headline: tuple[SystemValue, Resampled]
    """Headline metric of the best baseline, with its bootstrap resamples."""
    difference: ScoreDifference
    """Headline metric of the model (second) minus that of the best baseline (first), paired by image."""
    common_answer: CommonAnswer | None
    """The answer that the model repeats; None if it repeats none more often than the ground truth does."""

    @property
    def best(self) -> BlindBaseline:
        """The baseline with the best headline metric on these questions."""
        return self.baselines[0]

    @property
    def verdict(self) -> str:
        """Position of the model: "above", "not distinguishable from" or "below" the best blind baseline."""
        return describe_margin(self.difference)


def describe_margin(difference: ScoreDifference) -> str:
    """Return "above", "below", or "not distinguishable from" if the confidence interval includes 0 or is unknown."""
    if not difference.is_clear:
        return "not distinguishable from"
    return "above" if difference.value > 0 else "below"


def score_blind(
    joined: JoinedPredictions, store: Store, train: Sequence[Sample], *, with_intervals: bool = True
) -> tuple[BlindScores, ...]:
    """Score the blind baselines of each task on the questions that have predictions.

    ``train``: training samples of any task; of a task without any, only baselines that need no fitting are scored.
    ``with_intervals``: bootstrap confidence intervals. A task without blind baselines has no result.
    """
    with collector_paused():
        found = (_score_task(name, joined, store, train, with_intervals) for name in joined.by_task)
        return tuple(one for one in found if one is not None)


def position_again(known: Sequence[BlindScores], joined: JoinedPredictions) -> tuple[BlindScores, ...]:
    """Return blind scores with the position of another model, without scoring the baselines again.

    The baselines depend on the questions and the training samples alone: ``joined`` must hold predictions for the same
    questions as those that ``known`` was scored on. Gives the same as ``score_blind``.
    """
    with collector_paused():
        return tuple(_position_again(one, joined.by_task[one.task]) for one in known)


def _position_again(known: BlindScores, own: Sequence[JoinedPrediction]) -> BlindScores:
    model = _headline(known.task, own, with_intervals=True)
    return replace(
        known,
        difference=_subtract(known.task, known.best_headline, model.value, [model.resampled]),
        common_answer=most_common_answer(own),
    )


def _score_task(
    name: str, joined: JoinedPredictions, store: Store, train: Sequence[Sample], with_intervals: bool
) -> BlindScores | None:
    task = TASKS[name]
    answers = task.blind_answers([sample for sample in train if sample.task == name])
    if not answers:
        return None
    own = joined.by_task[name]
    baselines = []
    for baseline, answer in answers.items():
        answered = replace(joined, by_task={name: _answer_blindly(own, answer)})
        (scores,) = score_joined(answered, store, with_intervals=with_intervals)
        baselines.append(BlindBaseline(name=baseline, task=name, values=scores.values, intervals=scores.intervals))
    metric = next(key for key in baselines[0].values if key.partition(" ")[0] == task.headline)
    baselines.sort(key=lambda one: -one.values[metric])
    best = _headline(name, _answer_blindly(own, answers[baselines[0].name]), with_intervals)
    model = _headline(name, own, with_intervals)
    return BlindScores(
        task=name,
        metric=metric,
        baselines=tuple(baselines),
        best_headline=best,
        difference=_subtract(name, best, model.value, [model.resampled]),
        common_answer=most_common_answer(own),
    )


def _answer_blindly(joined: Sequence[JoinedPrediction], answer: BlindAnswer) -> list[JoinedPrediction]:
    """Replace predictions by blind answers. The answer to a question that was not queried is unchanged."""
    return [
        JoinedPrediction(
            one.sample,
            Prediction(sample_id=one.sample.id, text="", finish_reason=FinishReason.STOP),
            Reading(text="", well_formed=True, answer=answer(one.sample)),
        )
        if one.sample.queried
        else one
        for one in joined
    ]


class _Headline(NamedTuple):
    """The headline metric of some answers: its value, and bootstrap resamples of the images."""

    value: SystemValue
    resampled: Resampled


def _headline(name: str, answers: Sequence[JoinedPrediction], with_intervals: bool) -> _Headline:
    images = images_of(answers)
    once = np.ones(len(images))
    headline = TASKS[name].headline
    statistics = [image_ratios(name, answers, images)]
    if headline not in statistics[0](once):
        statistics = headline_statistics(name, answers, images)
    value = next(found[headline] for one in statistics if headline in (found := one(once)))
    return _Headline(
        SystemValue(mean=value, low=value, high=value, num_seeds=1),
        resample(statistics if with_intervals else [], images),
    )


def blind_difference(blind: BlindScores, seeds: Sequence[Measured]) -> ScoreDifference:
    """Return the headline metric of a system minus that of the best baseline, with a paired-bootstrap interval.

    ``seeds``: predictions of the system for the same questions as those of ``blind``, one for each seed.
    """
    headline = TASKS[blind.task].headline
    value = system_value([one.values[blind.task][headline] for one in seeds])
    return _subtract(blind.task, blind.best_headline, value, [one.resampled[blind.task] for one in seeds])


def _subtract(
    task: str, blind: tuple[SystemValue, Resampled], value: SystemValue, resampled: Sequence[Resampled]
) -> ScoreDifference:
    first, resampled_blind = blind
    return ScoreDifference(
        first=first,
        second=value,
        value=value.mean - first.mean,
        interval=difference_intervals([resampled_blind], resampled).get(TASKS[task].headline),
    )


def most_common_answer(joined: Sequence[JoinedPrediction]) -> CommonAnswer | None:
    """Return the answer that predictions of one task repeat suspiciously often; None if there is none.

    It is at least half of the answers, or a quarter and 10, and its fraction exceeds that of equal targets by at least
    0.1. Boxes are equal if they are equal in whole thousandths of their image, whatever their confidence; other answers
    if their descriptions are. Unreadable answers and questions that were not queried are in no group.
    """
    queried = [one for one in joined if one.sample.queried]
    groups: dict[Hashable, list[JoinedPrediction]] = {}
    for one in queried:
        if not isinstance(one.reading.answer, Unreadable):
            groups.setdefault(_identity(one.sample, one.reading.answer), []).append(one)
    if not groups:
        return None
    key, largest = max(groups.items(), key=lambda item: len(item[1]))
    count, number = len(largest), len(queried)
    is_common = count >= _MIN_COUNT and (2 * count >= number or (4 * count >= number and count >= 10))
    num_equal_targets = Counter(_identity(one.sample, one.sample.target) for one in queried)[key]
    if not is_common or count - num_equal_targets < number / 10:
        return None
    answer = largest[0].reading.answer
    return CommonAnswer(count=count, num_answers=number, description=_describe(largest[0].sample, answer))


_MIN_COUNT = 3
"""Fewer equal answers are no sign of anything."""


def _identity(sample: Sample, answer: Answer) -> Hashable:
    """Return a key that equal answers to different images share."""
    task = TASKS[sample.task]
    if task.boxes is None:
        return task.describe_answer(answer)
    width, height = sample.target_size
    return (
        task.describe_answer(answer, "caption"),  # distinguishes "no objects" from invalid boxes
        *(
            (round(1000 * x1 / width), round(1000 * y1 / height), round(1000 * x2 / width), round(1000 * y2 / height))
            for x1, y1, x2, y2 in (marked.box.xyxy for marked in task.answer_boxes(answer))
        ),
    )


def _describe(sample: Sample, answer: Answer) -> str:
    task = TASKS[sample.task]
    if task.boxes is None:
        return f'"{task.describe_answer(answer)}"'
    number = len(task.answer_boxes(answer))
    if not number:
        return '"No Objects"' if answer == task.absent else task.describe_answer(answer, "caption")
    one, several = ("point", "points") if task.has_points else ("box", "boxes")
    return f"the same {one}" if number == 1 else f"the same {number} {several}"
