"""A task in one file, for tests of the task interface: the dominant colour of an image, with its own target type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from virft.errors import DataError
from virft.metrics.measurement import Measurement
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
from virft.types import Answer, ImageSize, Reading, RewardContext, Sample, Unreadable


@dataclass(frozen=True, slots=True)
class Colour:
    """An RGB colour, each part from 0 to 255."""

    red: int
    green: int
    blue: int

    def __str__(self) -> str:
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"


def _parse(text: str) -> Answer:
    digits = re.fullmatch(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", text.lower())
    if digits is None:
        return Unreadable(reason="no colour such as #ff0000", piece=text[:20])
    return Colour(*(int(part, 16) for part in digits.groups()))


def _distance(first: Colour, second: Colour) -> float:
    parts = ((first.red, second.red), (first.green, second.green), (first.blue, second.blue))
    return sum(abs(a - b) for a, b in parts) / (3 * 255)


def _score(answer: Colour, target: Colour) -> float:
    return 1.0 - _distance(answer, target)


def _compute(reading: Reading, target: Colour, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    answer = reading.answer
    close = _score(answer, target) if isinstance(answer, Colour) else 0.0
    return {"closeness": close if options.preset == "robust" else float(answer == target)}


def _measure(pairs: Sequence[tuple[Reading, Colour]]) -> Measurement:
    closeness = [_score(one.answer, target) if isinstance(one.answer, Colour) else 0.0 for one, target in pairs]
    unreadable = [isinstance(one.answer, Unreadable) for one, _ in pairs]
    return Measurement(
        values={
            "closeness": fmean(closeness) if pairs else 0.0,
            "unreadable_frac": fmean(unreadable) if pairs else 0.0,
        },
        counts={"num_questions": len(pairs), "num_unreadable": sum(unreadable)},
    )


def _to_record(sample: Sample) -> dict[str, Any]:
    target = sample.target
    assert isinstance(target, Colour)
    return {"colour": [target.red, target.green, target.blue]}


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    value = record["colour"]
    if (
        not isinstance(value, list)
        or len(value) != 3
        or any(type(one) is not int or not 0 <= one < 256 for one in value)
    ):
        raise DataError(f"{where}: colour is {value!r:.60}; expected [red, green, blue] from 0 to 255")
    return ParsedTarget(Colour(*value))


def _probes(samples: Sequence[Sample]) -> Probes:
    return constant_probes("#808080", {"always grey": "#808080", "all colours": "#ff0000 #00ff00 #0000ff"})


COLOUR = Task(
    name="colour",
    target_type=Colour,
    query_hint="the part of the image, as sky",
    prompts=PromptTexts(
        short="Colour of {query}?",
        request="Which colour is most frequent in {query}?",
        schema="The answer is a colour such as #ff0000.",
    ),
    example="#ff0000",
    read=plain_reader(_parse),
    render=plain_renderer(str),
    target_format=TargetFormat(
        required=frozenset({"colour"}),
        properties={
            "colour": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3}
        },
        to_record=_to_record,
        from_record=_from_record,
    ),
    rewards={
        "robust": TaskReward(bounds={"closeness": (0.0, 1.0)}, compute=_compute),
        "paper": TaskReward(bounds={"closeness": (0.0, 1.0)}, compute=_compute),
    },
    explain=compare_texts(str, str),
    metrics=(
        Metric(
            name="closeness",
            description="1 minus the mean distance of red, green and blue",
            in_table=True,
            in_card=True,
            in_comparison=True,
        ),
    ),
    measure_pairs=_measure,
    score_answer=_score,
    score_description="closeness",
    ratios=mean_ratios("closeness"),
    describe_targets=same_descriptions(str),
    describe_answers=same_descriptions(str),
    answer_to_record=lambda answer: {"colour": str(answer)},
    probes=_probes,
    blind_answers=lambda samples: fit_commonest("commonest colour", samples, lambda sample: sample.target),
    oracle=every_other_correct(lambda target: target, lambda target: Colour(255 - target.red, 0, 255)),
)
