"""Counting: the number of objects of one named class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virft.errors import DataError
from virft.metrics.measurement import Measurement, ratio
from virft.rewards.options import RewardOptions
from virft.tasks.plain_answers import (
    compare_texts,
    every_other_correct,
    fit_commonest,
    plain_reader,
    plain_renderer,
    same_descriptions,
)
from virft.tasks.task import (
    TRUNCATED_FRAC,
    UNREADABLE_FRAC,
    WELL_FORMED_FRAC,
    BlindAnswers,
    ClassAnnotation,
    Metric,
    ParsedTarget,
    Probes,
    TargetFormat,
    Task,
    TaskReward,
    constant_probes,
    mean_ratios,
)
from virft.text.prompts import PromptTexts
from virft.types import Answer, ImageSize, JoinedPrediction, Reading, RewardContext, Sample, Unreadable


@dataclass(frozen=True, slots=True)
class Count:
    """A number of objects, from 0 to ``MAX_COUNT``."""

    number: int

    def __str__(self) -> str:
        return str(self.number)


MAX_COUNT = 999_999
"""A larger number is unreadable: one absurd answer must not decide the mean absolute error."""

_NAMES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_WORDS = {name: number for number, name in enumerate(_NAMES)} | {"no": 0, "none": 0}
_PUNCTUATION = ".,;:!?\"'`()[]*"
_JOINTS = re.compile(r"[-–—/~]")

# --- text ---


def parse_count(text: str) -> Answer:
    """Return the one number in the text: digits, or a word from zero to twenty, "no" or "none".

    Other words may surround it. Several numbers, a range, a sign, a fraction or more than six digits are
    ``Unreadable``: which number is meant would be a guess.

    >>> parse_count("There are three foxes."), parse_count("12"), parse_count("No foxes")
    (Count(number=3), Count(number=12), Count(number=0))
    >>> parse_count("3 or 4").reason, parse_count("3-4").reason
    ('2 numbers; expected one', 'not a whole number from 0 to 999999')
    """
    found: list[int] = []
    for token in text.split():
        word = token.strip(_PUNCTUATION).casefold()
        if word in _WORDS:
            found.append(_WORDS[word])
        elif word.isascii() and word.isdecimal() and len(word) <= len(str(MAX_COUNT)):
            found.append(int(word))
        elif any(character.isnumeric() for character in word) or not _WORDS.keys().isdisjoint(_JOINTS.split(word)):
            return Unreadable(reason=f"not a whole number from 0 to {MAX_COUNT}", piece=token[:80])
    if len(found) != 1:
        return Unreadable(reason=f"{len(found)} numbers; expected one" if found else "no number", piece=text[:80])
    return Count(found[0])


# --- data ---


def _to_record(sample: Sample) -> dict[str, Any]:
    return {"count": _count_of(sample).number}


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    number = record["count"]
    if type(number) is not int or not 0 <= number <= MAX_COUNT:
        raise DataError(f"{where}: target.count is {number!r:.60}; expected a whole number from 0 to {MAX_COUNT}")
    return ParsedTarget(Count(number))


def _from_annotation(found: ClassAnnotation) -> ParsedTarget | None:
    """The number of boxes; None if some objects have no box of their own, so that their number is unknown."""
    if found.crowd or found.is_doubtful or not found.is_exhaustive:
        return None
    return ParsedTarget(Count(len(found.boxes)))


def _count_of(sample: Sample) -> Count:
    assert isinstance(sample.target, Count)
    return sample.target


# --- rewards ---


def count_reward(answer: Answer, target: Count) -> float:
    """Return 1 - |answer - target| / max(target, 1), at least 0: 1 minus the relative error. Unreadable: 0.

    >>> count_reward(Count(3), Count(4)), count_reward(Count(1), Count(0))
    (0.75, 0.0)
    """
    if not isinstance(answer, Count):
        return 0.0
    return max(0.0, 1.0 - abs(answer.number - target.number) / max(target.number, 1))


def _robust(reading: Reading, target: Count, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return {"count": count_reward(reading.answer, target)}


def _exact(reading: Reading, target: Count, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return {"count": float(reading.answer == target)}


# --- metrics ---


def counting_metrics(pairs: Sequence[tuple[Reading, Count]]) -> Measurement:
    """Return means over all questions. No questions: 0.

    ``accuracy``: fraction of exact counts. ``mean_absolute_error``: of an unreadable answer, max(target, 1) is added.
    ``unreadable_frac``. Table ``accuracy_by_count``: accuracy of the questions with each target.

    >>> def says(number): return Reading(text="", well_formed=True, answer=Count(number))
    >>> counting_metrics([(says(3), Count(3)), (says(1), Count(3))]).values
    {'accuracy': 0.5, 'mean_absolute_error': 1.0, 'unreadable_frac': 0.0}
    """
    num_unreadable = sum(isinstance(reading.answer, Unreadable) for reading, _ in pairs)
    errors = [
        abs(reading.answer.number - target.number) if isinstance(reading.answer, Count) else max(target.number, 1)
        for reading, target in pairs
    ]
    by_count: dict[int, list[bool]] = {}
    for (_, target), error in zip(pairs, errors, strict=True):
        by_count.setdefault(target.number, []).append(error == 0)
    num_correct = sum(error == 0 for error in errors)
    return Measurement(
        values={
            "accuracy": ratio(num_correct, len(pairs)),
            "mean_absolute_error": ratio(sum(errors), len(pairs)),
            "unreadable_frac": ratio(num_unreadable, len(pairs)),
        },
        counts={"num_questions": len(pairs), "num_correct": num_correct, "num_unreadable": num_unreadable},
        tables={"accuracy_by_count": {str(number): sum(held) / len(held) for number, held in sorted(by_count.items())}},
    )


def _measure_dataset(joined: Sequence[JoinedPrediction], source: Mapping[str, Any]) -> Measurement:
    """The accuracy of each class."""
    by_class: dict[str, list[bool]] = {}
    for one in joined:
        by_class.setdefault(one.sample.query, []).append(one.reading.answer == one.sample.target)
    table = {label: sum(held) / len(held) for label, held in sorted(by_class.items())}
    return Measurement(values={}, counts={}, tables={"accuracy": table})


# --- audit ---


def _probes(samples: Sequence[Sample]) -> Probes:
    """The commonest count, other constants, and answers that hold several numbers."""
    ((usual, _),) = Counter(_count_of(sample).number for sample in samples).most_common(1)
    largest = max(_count_of(sample).number for sample in samples)
    return constant_probes(
        str(usual),
        {
            "commonest count": str(usual),
            "always 0": "0",
            "always 1": "1",
            "always none": "none",
            "a large number": str(MAX_COUNT),
            "a huge number": "9" * 400,
            "a negative number": "-1",
            "a range": f"0-{largest}",
            "a range with words": f"between zero and {largest}",
            "several numbers": " ".join(map(str, range(min(largest, 100) + 1))),
            "several numbers with or": " or ".join(map(str, range(min(largest, 100) + 1))),
            "a fraction": f"{usual}.5",
            "digits of another script": "".join(chr(0xFF10 + int(digit)) for digit in str(usual)),
            "many": "many",
        },
    )


def _blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    """The commonest count of all samples, and that of each class."""
    return fit_commonest("most frequent count", samples, _count_of, by_query=True)


COUNTING = Task(
    name="counting",
    target_type=Count,
    query_hint="a class name such as fox",
    prompts=PromptTexts(
        short="How many {query} does this image show?",
        request="Count the objects of the category '{query}' in this image.",
        schema="The answer is one whole number in digits. If there is no such object, the answer is 0.",
    ),
    example="3",
    read=plain_reader(parse_count),
    render=plain_renderer(str),
    target_format=TargetFormat(
        required=frozenset({"count"}),
        properties={"count": {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}},
        to_record=_to_record,
        from_record=_from_record,
    ),
    class_of=lambda sample: sample.query,
    count_target=lambda target: {"objects": target.number, "absent": int(target.number == 0)},
    absent=Count(0),
    from_annotation=_from_annotation,
    allows_flip=True,
    rewards={
        "robust": TaskReward(bounds={"count": (0.0, 1.0)}, compute=_robust),
        "paper": TaskReward(bounds={"count": (0.0, 1.0)}, compute=_exact),
    },
    explain=compare_texts(str, str),
    metrics=(
        Metric(
            name="accuracy",
            description="fraction of exact counts",
            in_table=True,
            in_card=True,
            in_comparison=True,
        ),
        Metric(
            name="mean_absolute_error",
            description="mean distance from the target; an unreadable answer counts as max(target, 1)",
            better=-1,
            in_table=True,
            in_card=True,
        ),
        UNREADABLE_FRAC,
        TRUNCATED_FRAC,
        WELL_FORMED_FRAC,
    ),
    measure_pairs=counting_metrics,
    score_answer=lambda answer, target: float(answer == target),
    score_description="1 or 0",
    ratios=mean_ratios("accuracy", "mean_absolute_error"),
    measure_dataset=_measure_dataset,
    describe_targets=same_descriptions(str),
    describe_answers=same_descriptions(str),
    answer_to_record=lambda answer: {"count": answer.number},
    probes=_probes,
    blind_answers=_blind_answers,
    oracle=every_other_correct(lambda target: target, lambda target: Count(target.number + 1)),
)
