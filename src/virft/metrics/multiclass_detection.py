"""Metrics of detection of several classes: those of the questions about one class each that an answer contains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

from virft.metrics.calibration import calibration_metrics
from virft.metrics.confusion import NOTHING, LabelledBox, confusion_matrix
from virft.metrics.detection import detection_metrics
from virft.metrics.measurement import Measurement, ratio
from virft.text.answers import is_at_most_1
from virft.text.labelled_boxes import split_by_class
from virft.types import Detection, Detections, JoinedPrediction, LabelledDetections, Prediction, Reading, Unreadable


class ClassQuestion(NamedTuple):
    """One class of a question about several, as a question of its own."""

    label: str | None
    """Class name; None for the predictions that name no class of the question."""
    reading: Reading
    """The predicted boxes of the class as ``Detections``, or ``Unreadable``."""
    target: Detections
    """The target boxes and crowd regions of the class."""
    places: tuple[int, ...]
    """Index of each predicted box in the items of the whole answer."""
    target_places: tuple[int, ...]
    """Index of each target box in the items of the whole target."""


def split_question(reading: Reading, target: LabelledDetections) -> list[ClassQuestion]:
    """Return a question for each class, and one for all other predictions if there are any (``split_by_class``).

    An unreadable answer is unreadable for each class.
    """
    is_readable = isinstance(reading.answer, LabelledDetections)
    answer = reading.answer if isinstance(reading.answer, LabelledDetections) else LabelledDetections()
    return [
        ClassQuestion(
            label=part.label,
            reading=replace(reading, answer=part.answer) if is_readable else reading,
            target=part.target,
            places=part.places,
            target_places=part.target_places,
        )
        for part in split_by_class(answer, target)
    ]


def split_predictions(joined: Sequence[JoinedPrediction]) -> list[JoinedPrediction]:
    """Return a prediction for each class of each question, with the class as its query: input of average precision.

    Predictions that name no class of their question are omitted: the annotations do not state their class.
    """
    return [
        JoinedPrediction(
            replace(one.sample, **_fields(one, part)), _with_boxes(one.prediction, part.places), part.reading
        )
        for one in joined
        for part in split_question(one.reading, target_of(one))
        if part.label is not None
    ]


def target_of(one: JoinedPrediction) -> LabelledDetections:
    """Return the target of the sample."""
    assert isinstance(one.sample.target, LabelledDetections)
    return one.sample.target


def _with_boxes(prediction: Prediction, places: Sequence[int]) -> Prediction:
    """The prediction with the P(yes) of these of its boxes, if it has any."""
    probs = prediction.yes_probs
    return replace(prediction, yes_probs=tuple(probs[place] for place in places)) if probs else prediction


def _fields(one: JoinedPrediction, part: ClassQuestion) -> dict[str, Any]:
    areas, outlines = one.sample.areas, one.sample.outlines
    return {
        "query": part.label,
        "target": part.target,
        "areas": tuple(areas[place] for place in part.target_places) if areas else (),
        "outlines": tuple(outlines[place] for place in part.target_places) if outlines else (),
        "exhaustive": part.label not in target_of(one).incomplete,
    }


def multiclass_metrics(pairs: Sequence[tuple[Reading, LabelledDetections]]) -> Measurement:
    """Return the metrics of ``detection_metrics`` with class-aware matching, and those of ``calibration_metrics``.

    A predicted box is a hit only for a target of its own class; one whose label is no class of the question is a false
    positive. Classes that are not annotated exhaustively are omitted. ``f1`` is the micro average, ``f1_macro`` the
    mean over the classes with a target or a predicted box. ``false_positive_rate``: fraction of the absent classes of
    all questions that have a predicted box. ``unlisted_frac``: fraction of the predicted boxes whose label is no class
    of the question. Tables: ``f1`` by class.

    >>> from virft.types import Box, Detection
    >>> def found(label): return (Detection(box=Box(x1=0, y1=0, x2=2, y2=2), label=label),)
    >>> target = LabelledDetections(items=found("cat"), classes=("cat", "dog"))
    >>> reading = Reading(text="", well_formed=True, answer=LabelledDetections(items=found("cat") + found("dog")))
    >>> measured = multiclass_metrics([(reading, target)])
    >>> [measured.values[name] for name in ("precision", "recall", "f1_macro", "false_positive_rate")]
    [0.5, 1.0, 0.5, 1.0]
    """
    parts = list(_exhaustive_parts(pairs))
    found = detection_metrics([(part.reading, part.target) for part in parts])
    listed = [part for part in parts if part.label is not None]
    by_class: dict[str, list[tuple[Reading, Detections]]] = {}
    for part in listed:
        if part.target.items or _num_predicted(part):
            by_class.setdefault(str(part.label), []).append((part.reading, part.target))
    f1 = {label: detection_metrics(held).values["f1"] for label, held in sorted(by_class.items())}
    absent = [part for part in listed if not part.target.items]
    num_unlisted = sum(len(_items(part)) for part in parts if part.label is None)
    answers = [reading.answer for reading, _ in pairs]
    num = len(pairs)
    num_unreadable = sum(isinstance(answer, Unreadable) for answer in answers)
    num_at_most_1 = sum(map(is_at_most_1, answers))
    num_no_objects = sum(isinstance(answer, LabelledDetections) and not answer.num_predicted for answer in answers)
    num_false_alarms = detection_metrics([(part.reading, part.target) for part in absent]).counts["num_false_alarms"]
    calibrated = calibration_metrics([(part.reading, part.target) for part in parts])
    counts = {
        **found.counts,
        **calibrated.counts,
        "num_questions": num,
        "num_class_questions": len(listed),
        "num_absent": len(absent),
        "num_false_alarms": num_false_alarms,
        "num_no_objects": num_no_objects,
        "num_unreadable": num_unreadable,
        "num_at_most_1": num_at_most_1,
        "num_unlisted": num_unlisted,
    }
    num_boxes = found.counts["num_boxes"]
    return Measurement(
        values={
            **found.values,
            **calibrated.values,
            "f1_macro": fmean(f1.values()) if f1 else found.values["f1"],
            "false_positive_rate": ratio(num_false_alarms, len(absent)),
            "boxes_per_question": ratio(num_boxes + found.counts["num_ignored"], num),
            "duplicates_per_question": ratio(found.counts["num_duplicates"], num),
            "unreadable_frac": ratio(num_unreadable, num),
            "at_most_1_frac": ratio(num_at_most_1, num),
            "no_objects_frac": ratio(num_no_objects, num),
            "unlisted_frac": ratio(num_unlisted, num_boxes),
        },
        counts=counts,
        tables={"f1": f1},
    )


def _exhaustive_parts(pairs: Sequence[tuple[Reading, LabelledDetections]]) -> Iterator[ClassQuestion]:
    for reading, target in pairs:
        yield from (part for part in split_question(reading, target) if part.label not in target.incomplete)


def _items(part: ClassQuestion) -> Sequence[Detection]:
    return part.reading.answer.items if isinstance(part.reading.answer, Detections) else ()


def _num_predicted(part: ClassQuestion) -> int:
    return part.reading.answer.num_predicted if isinstance(part.reading.answer, Detections) else 0


def label_accuracy(joined: Sequence[JoinedPrediction]) -> float:
    """Return the fraction of localised targets whose box has the correct label, in [0, 1]; 0 if none is localised.

    Boxes are matched at IoU 0.5, in their own class first (``confusion_matrix``).
    """
    images: dict[str, tuple[list[LabelledBox], list[LabelledBox]]] = {}
    for one in joined:
        targets, predicted = images.setdefault(one.image, ([], []))
        for part in split_question(one.reading, target_of(one)):
            targets += [LabelledBox(part.label or NOTHING, item.box.xyxy) for item in part.target.items]
            predicted += [
                LabelledBox(part.label or item.label or NOTHING, item.box.xyxy, item.confidence)
                for item in _items(part)
            ]
    localised = {pair: number for pair, number in confusion_matrix(images.values()).counts.items() if all(pair)}
    num_correct = sum(number for (target, label), number in localised.items() if target == label)
    return ratio(num_correct, sum(localised.values()))
