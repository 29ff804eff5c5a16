"""Detections in the format of the average-precision evaluators, with one of three scores for each box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from virft.metrics.average_precision import AveragePrecision, BoxQuestion, average_precision
from virft.types import Detections, JoinedPrediction

BoxScore = Callable[[JoinedPrediction, Detections], list[float]]
"""A score for each box of an answer."""


def box_questions(joined: Sequence[JoinedPrediction], score: BoxScore) -> list[BoxQuestion]:
    """Return the questions with a predicted box, a target or a crowd region; the others change no metric."""
    questions = []
    for one in joined:
        answer = one.reading.answer if isinstance(one.reading.answer, Detections) else Detections()
        target = one.sample.target
        assert isinstance(target, Detections)
        if answer.items or target.items or target.crowd:
            question = BoxQuestion(
                image=one.image,
                label=one.sample.query,
                boxes=[item.box.xyxy for item in answer.items],
                scores=score(one, answer),
                targets=[item.box.xyxy for item in target.items],
                areas=one.sample.areas,
                crowd=[box.xyxy for box in target.crowd],
                exhaustive=one.sample.exhaustive,
            )
            questions.append(question)
    return questions


def confidences(one: JoinedPrediction, answer: Detections) -> list[float]:
    """Return the confidence of each box in the text."""
    return [item.confidence for item in answer.items]


def constants(one: JoinedPrediction, answer: Detections) -> list[float]:
    """Return the score 1 for every box, so that boxes stay in text order."""
    return [1.0] * len(answer.items)


def logprobs(one: JoinedPrediction, answer: Detections) -> list[float]:
    """Return the mean log-probability, in nats, of the tokens of each box."""
    ends = one.prediction.token_ends
    spans = list(zip((0, *ends), ends, one.prediction.token_logprobs, strict=False))
    scores = []
    for item in answer.items:
        assert item.span is not None, "a box that was read has a place in the text"
        inside = [value for start, end, value in spans if start < item.span[1] and end > item.span[0]]
        scores.append(fmean(inside))
    return scores


def box_scores(joined: Sequence[JoinedPrediction], *, frequency: Mapping[str, str] | None) -> AveragePrecision:
    """Return average precision with the confidences as scores, and ``ap`` and ``ap50`` with two other scores.

    ``_constant``: the same score for every box; ``_logprob``: mean log-probability of the tokens of the box. Invalid
    elements of an answer have no effect. ``frequency``: see ``average_precision``.
    """
    precise = average_precision(box_questions(joined, confidences), frequency=frequency)
    values = dict(precise.values)
    others: dict[str, BoxScore] = {"constant": constants}
    if all(one.prediction.token_ends for one in joined if one.sample.queried):
        others["logprob"] = logprobs
    for name, score in others.items():
        other = average_precision(box_questions(joined, score), frequency=frequency).values
        values |= {f"{key}_{name}": other[key] for key in ("ap", "ap50") if key in other}
    return AveragePrecision(values=values, by_class=precise.by_class)
