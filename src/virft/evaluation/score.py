"""Scores of written answers. The texts are read again, so an old run gains from a better reader."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.predictions import (
    PredictionsCard,
    SizedPrediction,
    read_predictions,
    read_predictions_card,
)
from virft.metrics.average_precision import AveragePrecision, BoxQuestion, average_precision
from virft.metrics.bootstrap import Resampled, Weights, ap_statistic, intervals, ratio_statistic, resample
from virft.metrics.detection import detection_metrics
from virft.tasks import TASKS
from virft.types import Detections, FinishReason, Prediction, Reading, Sample, Scores, TaskName


class Answered(NamedTuple):
    """A sample with what was written about it, and what that is read as."""

    sample: Sample
    prediction: Prediction
    reading: Reading


class AnsweredSet(NamedTuple):
    """What was answered to a data set, by task, and how many questions of each task it holds."""

    answered: Mapping[TaskName, Sequence[Answered]]
    num_questions: Mapping[TaskName, int]


def score_predictions(path: Path, store: Store, *, with_intervals: bool = False) -> tuple[Scores, ...]:
    """One ``Scores`` per task of the data set, see ``score_answers``. ``with_intervals``: bootstrap over images."""
    answers = read_answers(path, store)
    return score_answers(answers, store, resampled=resample_answers(answers) if with_intervals else {})


def read_answers(path: Path, store: Store) -> AnsweredSet:
    """The texts of a predictions file as they are read now, in the order of the data set.

    What a protocol leaves out counts as answered by "no objects", as far as the questions that were chosen reach.
    """
    card = read_predictions_card(path)
    if card.data_hash != store.hash:
        raise DataError(
            f"{path}: answers to another data set ({card.data}, hash {card.data_hash[:12]}); "
            f"{store.folder} has hash {store.hash[:12]}"
        )
    predictions = read_predictions(path)
    if not predictions:
        raise DataError(f"{path}: holds no answers; expected {card.num_samples}")
    answered: dict[TaskName, list[Answered]] = {}
    num_asked: Counter[TaskName] = Counter()
    for number, sample in enumerate(store):
        num_asked[sample.task] += 1
        if not sample.asked and number < card.num_samples:
            nothing = Prediction(sample_id=sample.id, text="", finish_reason=FinishReason.STOP)
            reading = Reading(text="", well_formed=True, answer=Detections())
            answered.setdefault(sample.task, []).append(Answered(sample, nothing, reading))
        elif (found := predictions.pop(sample.id, None)) is not None:
            answered.setdefault(sample.task, []).append(read_answer(sample, found, card))
    if predictions:
        raise DataError(f"{path}: sample {min(predictions)!r} is not in {store.folder}")
    return AnsweredSet(answered=answered, num_questions=num_asked)


def read_answer(sample: Sample, sized: SizedPrediction, card: PredictionsCard) -> Answered:
    """One text as it is read now."""
    prediction, resized = sized
    reading = TASKS[sample.task].read_for(
        prediction.text, sample, thinking=card.thinking, space=card.box_space, resized=resized
    )
    return Answered(sample, prediction, reading)


def score_answers(answers: AnsweredSet, store: Store, *, resampled: Mapping[TaskName, Resampled]) -> tuple[Scores, ...]:
    """One ``Scores`` per task of the data set.

    Beside the task's own metrics: ``truncated_frac``, the share of texts cut by the token limit, and average precision
    (``box_scores``). Where only some samples were asked (``--limit``), or answered so far, every number says so in its
    name: ``f1 (120 of 320)``. ``resampled``: for intervals, see ``resample_answers``; none of tasks that are not there.
    """
    return tuple(
        _scores(name, answers.answered[name], answers.num_questions[name], store, resampled.get(name))
        for name in sorted(answers.answered)
    )


def write_scores(scores: tuple[Scores, ...], out: Path, *, predictions: Path) -> Mapping[str, Any]:
    """Write the scores as JSON with what they rest on, and return that."""
    card = read_predictions_card(predictions)
    tree = {
        "model": card.model,
        "data": card.data,
        "data_hash": card.data_hash,
        "thinking": card.thinking,
        "settings": card.settings,
        "tasks": {
            one.task.value: {
                "protocol": one.protocol,
                "num_samples": one.num_samples,
                "values": {name: round(value, 6) for name, value in one.values.items()},
                "counts": dict(one.counts),
                "intervals": {name: [round(end, 6) for end in ends] for name, ends in one.intervals.items()},
                "tables": {
                    table: {row: round(value, 6) for row, value in rows.items()} for table, rows in one.tables.items()
                },
            }
            for one in scores
        },
    }
    out.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    return tree


def read_scores(path: Path) -> tuple[Scores, ...]:
    """What ``write_scores`` wrote."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            Scores(
                task=TaskName(name),
                protocol=one["protocol"],
                data_hash=tree["data_hash"],
                num_samples=one["num_samples"],
                values=one["values"],
                counts=one["counts"],
                tables=one["tables"],
                intervals={key: (low, high) for key, (low, high) in one["intervals"].items()},
            )
            for name, one in tree["tasks"].items()
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected what `virft score` writes") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: no scores ({type(error).__name__}: {error}); expected what `virft score` writes"
        ) from error


def scores_to_text(scores: tuple[Scores, ...]) -> str:
    """A plain table, a block per task; behind a number its 95 % interval, if there is one.

    >>> one = Scores(task=TaskName.GROUNDING, protocol="all", data_hash="", num_samples=3, values={"box_miou": 0.5})
    >>> print(scores_to_text((one,)))
    grounding, protocol all, 3 questions
      box_miou                     0.500
    """
    lines = []
    for one in scores:
        lines.append(f"{one.task}, protocol {one.protocol}, {one.num_samples} questions")
        for name, value in one.values.items():
            ends = one.intervals.get(name)
            between = f"  ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
            lines.append(f"  {name:<26} {value:>7.3f}{between}")
    return "\n".join(lines)


def _scores(
    name: TaskName, answered: Sequence[Answered], num_asked: int, store: Store, resampled: Resampled | None
) -> Scores:
    measured = TASKS[name].measure([(one.reading, one.sample.target) for one in answered])
    num_truncated = sum(one.prediction.finish_reason == "length" for one in answered)
    values = {**measured.values, "truncated_frac": num_truncated / len(answered)}
    tables = dict(measured.tables)
    if name is TaskName.DETECTION:
        precise = box_scores(answered, frequency=store.card.get("source", {}).get("frequency"))
        values |= precise.values
        tables |= {"ap": precise.by_class, "f1": _f1_by_class(answered)}
    between = intervals(resampled) if resampled is not None else {}
    incomplete = f" ({len(answered)} of {num_asked})" if len(answered) < num_asked else ""
    return Scores(
        task=name,
        protocol=_protocol(store) if name is TaskName.DETECTION else "all",
        data_hash=store.hash,
        num_samples=len(answered),
        values={value_name + incomplete: value for value_name, value in values.items()},
        counts={**measured.counts, "num_truncated": num_truncated},
        tables={table + incomplete: rows for table, rows in tables.items()},
        intervals={value_name + incomplete: ends for value_name, ends in between.items()},
    )


def box_scores(answered: Sequence[Answered], *, frequency: Mapping[str, str] | None) -> AveragePrecision:
    """Average precision with the confidences in the text as scores; ``ap`` and ``ap50`` also with two other scores.

    ``_constant``: every box counts the same, in the order of the text; ``_logprob``: mean log-probability of the tokens
    of its element. Elements that are no boxes do not count here.
    """
    precise = average_precision([_question(one, _confidences) for one in answered], frequency=frequency)
    values = dict(precise.values)
    others: dict[str, BoxScore] = {"constant": _constants}
    if all(one.prediction.token_logprobs for one in answered if one.sample.asked):
        others["logprob"] = _logprobs
    for name, score in others.items():
        other = average_precision([_question(one, score) for one in answered], frequency=frequency).values
        values |= {f"{key}_{name}": other[key] for key in ("ap", "ap50") if key in other}
    return AveragePrecision(values=values, by_class=precise.by_class)


MEANS = {TaskName.CLASSIFICATION: ("accuracy",), TaskName.GROUNDING: ("box_miou", "accuracy_at_50")}
"""Headline numbers that are means over questions."""


def resample_answers(answers: AnsweredSet) -> dict[TaskName, Resampled]:
    """Each task's headline numbers over resamples of its images."""
    return {name: _resample(name, answered) for name, answered in answers.answered.items()}


def _resample(name: TaskName, answered: Sequence[Answered]) -> Resampled:
    by_image: dict[str, list[Answered]] = {}
    for one in answered:
        by_image.setdefault(one.sample.images[one.sample.target_image], []).append(one)
    # by the first question about it: paths differ between copies of a data set
    images = [held[0].sample.id for held in by_image.values()]
    measured = [TASKS[name].measure([(one.reading, one.sample.target) for one in held]) for held in by_image.values()]
    if name is not TaskName.DETECTION:
        sizes = [one.counts["num_questions"] for one in measured]
        means = {
            key: ([one.values[key] * size for one, size in zip(measured, sizes, strict=True)], sizes)
            for key in MEANS[name]
        }
        return resample(ratio_statistic(means), images)
    counts = [one.counts for one in measured]
    hits = [one["num_hits"] for one in counts]
    boxes, targets = [one["num_boxes"] for one in counts], [one["num_targets"] for one in counts]
    of_ratios = ratio_statistic(
        {
            "precision": (hits, boxes),
            "recall": (hits, targets),
            "f1": ([2 * hit for hit in hits], [box + target for box, target in zip(boxes, targets, strict=True)]),
        }
    )
    of_ap = ap_statistic([_question(one, _confidences) for one in answered], images=list(by_image))

    def statistic(weights: Weights) -> dict[str, float]:
        return {**of_ratios(weights), **of_ap(weights)}

    return resample(statistic, images)


def _f1_by_class(answered: Sequence[Answered]) -> dict[str, float]:
    by_class: dict[str, list[tuple[Reading, Detections]]] = {}
    for one in answered:
        assert isinstance(one.sample.target, Detections)
        by_class.setdefault(one.sample.query, []).append((one.reading, one.sample.target))
    return {label: detection_metrics(pairs).values["f1"] for label, pairs in sorted(by_class.items())}


BoxScore = Callable[[Answered, Detections], list[float]]
"""A score for each box of an answer."""


def _question(one: Answered, score: BoxScore) -> BoxQuestion:
    answer = one.reading.answer if isinstance(one.reading.answer, Detections) else Detections()
    target = one.sample.target
    assert isinstance(target, Detections)
    return BoxQuestion(
        image=one.sample.images[one.sample.target_image],
        label=one.sample.query,
        boxes=[item.box.xyxy for item in answer.items],
        scores=score(one, answer),
        targets=[item.box.xyxy for item in target.items],
        areas=one.sample.areas,
        crowd=[box.xyxy for box in one.sample.crowd],
    )


def _confidences(one: Answered, answer: Detections) -> list[float]:
    return [item.confidence for item in answer.items]


def _constants(one: Answered, answer: Detections) -> list[float]:
    return [1.0] * len(answer.items)


def _logprobs(one: Answered, answer: Detections) -> list[float]:
    """Mean log-probability of the tokens that wrote each box."""
    ends = one.prediction.token_ends
    spans = list(zip((0, *ends), ends, one.prediction.token_logprobs, strict=False))
    scores = []
    for item in answer.items:
        assert item.span is not None, "a box that was read has a place in the text"
        inside = [value for start, end, value in spans if start < item.span[1] and end > item.span[0]]
        scores.append(fmean(inside))
    return scores


def _protocol(store: Store) -> str:
    """Which classes were asked: those present, or also a sampled share of absent ones; or as the set was built."""
    source = store.card.get("source", {})
    if (named := source.get("protocol")) is not None:
        return f"map:{source['map']['file']}" if named == "map" else str(named)
    share = store.card.get("negatives_frac") or 0.0
    return f"positives+negatives ({share:.3f} absent)" if share else "positives"
