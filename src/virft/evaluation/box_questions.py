"""Answers about boxes as the evaluators of average precision take them, with one of three scores for each box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from virft.evaluation.joined import Answered
from virft.metrics.average_precision import BoxQuestion
from virft.types import Detections

BoxScore = Callable[[Answered, Detections], list[float]]
"""A score for each box of an answer."""


def box_questions(answered: Sequence[Answered], score: BoxScore) -> list[BoxQuestion]:
    """Those about which there is anything to say. Where nothing was found and nothing is, no evaluator looks."""
    questions = []
    for one in answered:
        answer = one.reading.answer if isinstance(one.reading.answer, Detections) else Detections()
        target = one.sample.target
        assert isinstance(target, Detections)
        if answer.items or target.items or one.sample.crowd:
            question = BoxQuestion(
                image=one.image,
                label=one.sample.query,
                boxes=[item.box.xyxy for item in answer.items],
                scores=score(one, answer),
                targets=[item.box.xyxy for item in target.items],
                areas=one.sample.areas,
                crowd=[box.xyxy for box in one.sample.crowd],
                exhaustive=one.sample.exhaustive,
            )
            questions.append(question)
    return questions


def confidences(one: Answered, answer: Detections) -> list[float]:
    """What the text says of each box."""
    return [item.confidence for item in answer.items]


def constants(one: Answered, answer: Detections) -> list[float]:
    """The same for all: they stay in the order of the text."""
    return [1.0] * len(answer.items)


def logprobs(one: Answered, answer: Detections) -> list[float]:
    """Mean log-probability of the tokens that wrote each box."""
    ends = one.prediction.token_ends
    spans = list(zip((0, *ends), ends, one.prediction.token_logprobs, strict=False))
    scores = []
    for item in answer.items:
        assert item.span is not None, "a box that was read has a place in the text"
        inside = [value for start, end, value in spans if start < item.span[1] and end > item.span[0]]
        scores.append(fmean(inside))
    return scores
