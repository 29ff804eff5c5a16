"""Detections in the format of the average-precision evaluators, with one of four scores for each box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from virft.metrics.average_precision import AveragePrecision, BoxQuestion, average_precision
from virft.metrics.box_curves import box_curves
from virft.metrics.calibration import calibration_error, confidences_of
from virft.metrics.detection import detection_metrics
from virft.types import Detections, JoinedPrediction, Reading

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


def yes_probs(one: JoinedPrediction, answer: Detections) -> list[float]:
    """Return P(yes) to the question about each box."""
    return list(one.prediction.yes_probs)


def has_yes_probs(joined: Sequence[JoinedPrediction]) -> bool:
    """Return True if there are predicted boxes, and each of them has a P(yes)."""
    numbers = [
        (len(one.reading.answer.items), len(one.prediction.yes_probs))
        for one in joined
        if one.sample.queried and isinstance(one.reading.answer, Detections)
    ]
    return any(boxes for boxes, _ in numbers) and all(boxes == probs for boxes, probs in numbers)


def yes_no_metrics(joined: Sequence[JoinedPrediction]) -> dict[str, float]:
    """Return calibration error and operating point of P(yes), as if it was the confidence of each box.

    ``best_f1_yes`` is the largest F1 at IoU 0.5 over all thresholds of P(yes), ``best_threshold_yes`` its threshold.
    Both are fitted on the scored dataset, so they are the limit of a threshold that is chosen on other data.
    """
    pairs = [
        (_with_confidences(one.reading, one.prediction.yes_probs), one.sample.target)
        for one in joined
        if isinstance(one.sample.target, Detections)
    ]
    values, hits = confidences_of(pairs)
    counts = detection_metrics(pairs).counts
    curves = box_curves(values, hits, num_targets=int(counts["num_targets"]), num_invalid=int(counts["num_invalid"]))
    found = {"calibration_error_yes": calibration_error(values, hits)}
    if curves is not None:
        found |= {"best_f1_yes": curves.f1[curves.best], "best_threshold_yes": curves.thresholds[curves.best]}
    return found


def _with_confidences(reading: Reading, values: Sequence[float]) -> Reading:
    if not isinstance(reading.answer, Detections):
        return reading
    items = tuple(replace(item, confidence=value) for item, value in zip(reading.answer.items, values, strict=True))
    return replace(reading, answer=replace(reading.answer, items=items))


def box_scores(joined: Sequence[JoinedPrediction], *, frequency: Mapping[str, str] | None) -> AveragePrecision:
    """Return average precision with the confidences as scores, and ``ap`` and ``ap50`` with other scores.

    ``_constant``: the same score for every box; ``_logprob``: mean log-probability of the tokens of the box; ``_yes``:
    P(yes), with ``yes_no_metrics``. The last two exist if the predictions store what they need. Invalid elements of an
    answer have no effect. ``frequency``: see ``average_precision``.
    """
    precise = average_precision(box_questions(joined, confidences), frequency=frequency)
    values = dict(precise.values)
    others: dict[str, BoxScore] = {"constant": constants}
    if all(one.prediction.token_ends for one in joined if one.sample.queried):
        others["logprob"] = logprobs
    if has_yes_probs(joined):
        others["yes"] = yes_probs
        values |= yes_no_metrics(joined)
    for name, score in others.items():
        other = average_precision(box_questions(joined, score), frequency=frequency).values
        values |= {f"{key}_{name}": other[key] for key in ("ap", "ap50") if key in other}
    return AveragePrecision(values=values, by_class=precise.by_class)
