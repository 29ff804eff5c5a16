"""Answers that are paid without looking at the picture, as far as a reward lets them: one text for each question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.text.prompts import question_of
from virft.types import Box, ImageSize, Label, Sample, TaskName

_WHOLE = (0, 0, 1000, 1000)
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
_MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownAnswers:
    """What a policy can learn from rewards without ever looking: the usual answer, and what the answers are.

    ``boxes``: task -> mean edges of its targets' boxes, relative to 1000. ``labels``: every name, the commonest first.
    """

    boxes: Mapping[TaskName, tuple[int, int, int, int]]
    labels: tuple[str, ...]


Attack = Callable[[Sample, KnownAnswers], str]
"""The content of the answer block."""


def known_answers(samples: Sequence[Sample]) -> KnownAnswers:
    """The usual answers of a data set."""
    edges: dict[TaskName, list[tuple[float, ...]]] = {}
    labels: Counter[str] = Counter()
    for sample in samples:
        target = sample.target
        if isinstance(target, Label):
            labels[target.text] += 1
            continue
        boxes = [target] if isinstance(target, Box) else [item.box for item in target.items]
        edges.setdefault(sample.task, []).extend(_relative(box, sample.target_size) for box in boxes)
    return KnownAnswers(
        boxes={
            task: tuple(round(fmean(column)) for column in zip(*rows, strict=True))  # type: ignore[misc]
            for task, rows in edges.items()
            if rows
        },
        labels=tuple(name for name, _ in labels.most_common()),
    )


def attack_texts(sample: Sample, known: KnownAnswers, *, thinking: bool) -> dict[str, str]:
    """Attack -> what it writes about this sample, with boxes relative to 1000."""
    think = "<think>I look.</think>" if thinking else ""
    whole = _ANSWERS_BY_TASK[sample.task]
    in_blocks = {name: f"{think}<answer>{attack(sample, known)}</answer>" for name, attack in whole.items()}
    usual = _usual(sample, known)
    return in_blocks | {
        "empty text": "",
        "empty answer": f"{think}<answer></answer>",
        "blank answer": f"{think}<answer> \u200b </answer>",
        "echo of the prompt": _prompt(sample, thinking),
        "echo of the prompt as the answer": f"{think}<answer>{_prompt(sample, thinking)}</answer>",
        "example of the format": f"{think}<answer>{TASKS[sample.task].example}</answer>",
        "answer block in an answer block": f"{think}<answer><answer>{usual}</answer></answer>",
        "many answer blocks": think + f"<answer>{usual}</answer>" * 50,
        "a megabyte": f"{think}<answer>{'A' * _MEGABYTE}</answer>",
        "a megabyte of brackets": f"{think}<answer>{'[' * _MEGABYTE}</answer>",
    }


def _prompt(sample: Sample, thinking: bool) -> str:
    return question_of(sample, template="paper", thinking=thinking, space=BoxSpace.RELATIVE_1000)


def _usual(sample: Sample, known: KnownAnswers) -> str:
    if sample.task is TaskName.CLASSIFICATION:
        return known.labels[0]
    box = known.boxes.get(sample.task, _WHOLE)
    return _pair(box) if sample.task is TaskName.GROUNDING else _list([box], 0.5)


def _relative(box: Box, size: ImageSize) -> tuple[float, ...]:
    return tuple(
        1000 * edge / extent
        for edge, extent in zip(box.xyxy, (size.width, size.height, size.width, size.height), strict=True)
    )


def _list(boxes: Sequence[tuple[float, ...]], confidence: float | str | None) -> str:
    told = "" if confidence is None else f", 'Confidence': {confidence}"
    return "[" + ", ".join(f"{{'Position': {[*box]}{told}}}" for box in boxes) + "]"


def _pair(box: tuple[float, ...]) -> str:
    return f"({box[0]},{box[1]}),({box[2]},{box[3]})"


def _grid(number: int) -> list[tuple[int, ...]]:
    ends = [1000 * i // number for i in range(number + 1)]
    return [
        (ends[column], ends[row], ends[column + 1], ends[row + 1]) for row in range(number) for column in range(number)
    ]


def _shifted(box: tuple[int, ...], number: int) -> list[tuple[int, ...]]:
    """The box and copies of it, each 2 % of the image further to the right, or to the left where that is full."""
    step = 20 if box[2] + 20 * number <= 1000 else -20
    moved = [(box[0] + step * i, box[1], box[2] + step * i, box[3]) for i in range(number)]
    return [one for one in moved if one[0] >= 0 and one[2] <= 1000] or [box]


def _detection(boxes: Callable[[KnownAnswers], Sequence[tuple[float, ...]]], confidence: float | str | None) -> Attack:
    return lambda sample, known: _list(boxes(known), confidence)


def _usual_box(known: KnownAnswers) -> list[tuple[float, ...]]:
    return [known.boxes.get(TaskName.DETECTION, _WHOLE)]


def _answers_of_detection() -> dict[str, Attack]:
    boxes: dict[str, Callable[[KnownAnswers], Sequence[tuple[float, ...]]]] = {
        "whole image": lambda known: [_WHOLE],
        "mean box of the data": _usual_box,
        "2 x 2 grid": lambda known: _grid(2),
        "4 x 4 grid": lambda known: _grid(4),
        "10 x 10 grid": lambda known: _grid(10),
        "one box 20 times": lambda known: _usual_box(known) * 20,
        "one box shifted 10 times": lambda known: _shifted(known.boxes.get(TaskName.DETECTION, _WHOLE), 10),
    }
    found: dict[str, Attack] = {"always No Objects": lambda sample, known: "No Objects", "always []": lambda *_: "[]"}
    for name, make in boxes.items():
        for confidence in (0.0, 0.5, 1.0):
            found[f"{name}, confidence {confidence:g}"] = _detection(make, confidence)
    found["mean box, no confidence"] = _detection(_usual_box, None)
    for written in ("NaN", "1e999", "-5.5", "True"):
        found[f"mean box, confidence {written}"] = _detection(_usual_box, written)
    found["huge numbers"] = _detection(lambda known: [(-1e300, -1e300, 1e300, 1e300)], 1.0)
    found["digits of another script"] = lambda sample, known: _list(_usual_box(known), 1.0).translate(_FULL_WIDTH)
    found["No Objects and a box"] = lambda sample, known: "No Objects " + _list(_usual_box(known), 1.0)
    found["right and wrong corners"] = _detection(lambda known: [(1000, 1000, 0, 0)], 1.0)
    return found


def _answers_of_classification() -> dict[str, Attack]:
    return {
        "commonest name": lambda sample, known: known.labels[0],
        "all names with or": lambda sample, known: " or ".join(known.labels),
        "all names with commas": lambda sample, known: ", ".join(known.labels),
        "all names run together": lambda sample, known: "".join(known.labels),
        "what is asked for": lambda sample, known: sample.query,
        "one letter": lambda sample, known: "a",
        "a dot": lambda sample, known: ".",
    }


def _answers_of_grounding() -> dict[str, Attack]:
    def usual(known: KnownAnswers) -> tuple[float, ...]:
        return known.boxes[TaskName.GROUNDING]

    return {
        "whole image": lambda sample, known: _pair(_WHOLE),
        "mean box of the data": lambda sample, known: _pair(usual(known)),
        "middle of the image": lambda sample, known: _pair((250, 250, 750, 750)),
        "several boxes": lambda sample, known: ", ".join(_pair(box) for box in (usual(known), _WHOLE)),
        "4 x 4 grid": lambda sample, known: str([[*box] for box in _grid(4)]),
        "a point": lambda sample, known: "(500,500)",
        "huge numbers": lambda sample, known: _pair((-1e300, -1e300, 1e300, 1e300)),
        "digits of another script": lambda sample, known: _pair(usual(known)).translate(_FULL_WIDTH),
        "right and wrong corners": lambda sample, known: _pair((1000, 1000, 0, 0)),
    }


_ANSWERS_BY_TASK: Mapping[TaskName, Mapping[str, Attack]] = {
    TaskName.DETECTION: _answers_of_detection(),
    TaskName.CLASSIFICATION: _answers_of_classification(),
    TaskName.GROUNDING: _answers_of_grounding(),
}
"""Task -> attack -> the content of its answer block."""
