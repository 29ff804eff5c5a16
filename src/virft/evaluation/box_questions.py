"""Convert detection predictions to the input of the average-precision evaluators, with one of three box scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from virft.evaluation.joined import JoinedPrediction
from virft.metrics.average_precision import BoxQuestion
from virft.types import Detections

BoxScore = Callable[[JoinedPrediction, Detections], list[float]]
"""A function that returns a score for each box of an answer."""


def box_questions(joined: Sequence[JoinedPrediction], score: BoxScore) -> list[BoxQuestion]:
    """Return the questions that have a predicted box, a target or a crowd region; evaluators ignore all others."""
    questions = []
    for one in joined:
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


def confidences(one: JoinedPrediction, answer: Detections) -> list[float]:
    """Return the confidence that the completion states for each box."""
    return [item.confidence for item in answer.items]


def constants(one: JoinedPrediction, answer: Detections) -> list[float]:
    """Return the same score for all boxes, which ranks them in the order of the text."""
    return [1.0] * len(answer.items)


def logprobs(one: JoinedPrediction, answer: Detections) -> list[float]:
    """Return the mean log-probability, in nats, of the tokens that spell each box."""
    ends = one.prediction.token_ends
    spans = list(zip((0, *ends), ends, one.prediction.token_logprobs, strict=False))
    scores = []
    for item in answer.items:
        assert item.span is not None, "a parsed box has a span in the text"
        inside = [value for start, end, value in spans if start < item.span[1] and end > item.span[0]]
        scores.append(fmean(inside))
    return scores
