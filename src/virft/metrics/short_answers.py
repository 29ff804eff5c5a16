"""Scores of short answers by kind, each as its benchmark publishes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from virft.metrics.measurement import Measurement, ratio
from virft.text.short_answers import (
    choice_in,
    edit_distance,
    is_close_number,
    items_in,
    normalize_vqa,
    number_in,
    same_answer,
)
from virft.types import Reading, ShortAnswer, Unreadable

ANLS_THRESHOLD = 0.5
"""Normalised edit distance from which on an answer scores 0. Source: Biten et al. 2019 (arXiv 1905.13648)."""


def vqa_accuracy(text: str, answers: Sequence[str]) -> float:
    """Return VQA's accuracy of an answer that several people, usually ten, have answered, in [0, 1].

    The mean over all people of min(1, n / 3), where n of the others gave this answer, compared by ``normalize_vqa``.
    Source: Antol et al. 2015 (arXiv 1505.00468).

    >>> vqa_accuracy("two", ["2", "2.", "Two", "three"]), vqa_accuracy("2", ["2"] * 10)
    (0.75, 1.0)
    """
    given = normalize_vqa(text)
    num_equal = sum(normalize_vqa(answer) == given for answer in answers)
    others = min(1.0, (num_equal - 1) / 3) if num_equal else 0.0
    return (num_equal * others + (len(answers) - num_equal) * min(1.0, num_equal / 3)) / len(answers)


def anls(text: str, answers: Sequence[str]) -> float:
    """Return the normalised Levenshtein similarity (ANLS of one question) to the closest answer, in [0, 1].

    1 - distance / length of the longer text, or 0 if the quotient is at least ``ANLS_THRESHOLD``. Case and the number
    of spaces do not count. Source: Biten et al. 2019 (arXiv 1905.13648).

    >>> anls("STOPP", ["stop"]), anls("go", ["stop"])
    (0.8, 0.0)
    """
    return max(_similarity(_folded(text), _folded(answer)) for answer in answers)


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(text: str, answer: str) -> float:
    longest = max(len(text), len(answer))
    # The distance is at least the difference in length, so a long text is not compared.
    if not longest or abs(len(text) - len(answer)) >= ANLS_THRESHOLD * longest:
        return 0.0
    quotient = edit_distance(answer, text) / longest
    return 1.0 - quotient if quotient < ANLS_THRESHOLD else 0.0


def list_f1(items: Sequence[str], target: Sequence[str]) -> float:
    """Return F1 of a list in any order, 2 hits / (N + M), in [0, 1]; an item that is repeated is wrong.

    >>> list_f1(["Red", "blue", "blue"], ["blue", "red", "green"])
    0.6666666666666666
    """
    found, expected = (Counter(normalize_vqa(item) or item for item in some) for some in (items, target))
    return 2 * (found & expected).total() / (found.total() + expected.total())


def _score_number(text: str, target: ShortAnswer) -> float:
    value = number_in(text)
    if value is None:
        return 0.0
    known = (number_in(answer) for answer in target.answers)
    relative, absolute = target.relative_tolerance, target.absolute_tolerance
    return float(
        any(one is not None and is_close_number(value, one, relative=relative, absolute=absolute) for one in known)
    )


SCORE_OF_KIND: Mapping[str, Callable[[str, ShortAnswer], float]] = {
    "text": lambda text, target: float(any(same_answer(text, answer) for answer in target.answers)),
    "vqa": lambda text, target: vqa_accuracy(text, target.answers),
    "number": _score_number,
    "choice": lambda text, target: float(choice_in(text, target.options) in target.answers),
    "list": lambda text, target: list_f1(items_in(text), target.answers),
    "ocr": lambda text, target: anls(text, target.answers),
}
"""Kind of a target -> score of the text of an answer against it, in [0, 1]."""


def score_short_answer(answer: ShortAnswer, target: ShortAnswer) -> float:
    """Return the score of an answer by the kind of its target, in [0, 1].

    >>> target = ShortAnswer(kind="number", answers=("200",), relative_tolerance=0.05)
    >>> score_short_answer(ShortAnswer(answers=("about 195",)), target)
    1.0
    """
    return SCORE_OF_KIND[target.kind](answer.answers[0], target)


def short_answer_metrics(pairs: Sequence[tuple[Reading, ShortAnswer]]) -> Measurement:
    """Return means over all questions; no questions: 0.

    ``mean_score``: of the scores by kind. ``accuracy``: fraction of scores of 1. ``unreadable_frac``. Table
    ``mean_score_by_kind``.
    """
    by_kind: dict[str, list[float]] = {}
    for reading, target in pairs:
        answer = reading.answer
        score = score_short_answer(answer, target) if isinstance(answer, ShortAnswer) else 0.0
        by_kind.setdefault(target.kind, []).append(score)
    scores = [score for some in by_kind.values() for score in some]
    num_correct = sum(score == 1.0 for score in scores)
    num_unreadable = sum(isinstance(reading.answer, Unreadable) for reading, _ in pairs)
    return Measurement(
        values={
            "mean_score": ratio(sum(scores), len(pairs)),
            "accuracy": ratio(num_correct, len(pairs)),
            "unreadable_frac": ratio(num_unreadable, len(pairs)),
        },
        counts={"num_questions": len(pairs), "num_correct": num_correct, "num_unreadable": num_unreadable},
        tables={"mean_score_by_kind": {kind: sum(some) / len(some) for kind, some in sorted(by_kind.items())}},
    )
