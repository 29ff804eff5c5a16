"""Metrics of several classes in one question are those of a question about each class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from box_questions import box_questions, untied
from factories import box, labelled, reading, sample
from unit.metrics.test_average_precision import reference
from virft.metrics.average_precision import BoxQuestion
from virft.metrics.detection import detection_metrics
from virft.metrics.multiclass_detection import label_accuracy, multiclass_metrics, split_predictions
from virft.tasks import TASKS
from virft.types import (
    Box,
    Detection,
    Detections,
    FinishReason,
    JoinedPrediction,
    LabelledDetections,
    Prediction,
    Unreadable,
)

TASK = TASKS["multiclass_detection"]
A, B, C = (0, 0, 20, 20), (30, 0, 50, 20), (0, 25, 20, 45)


def join(answer: object, target: LabelledDetections, *, image: str = "a.png", **more: object) -> JoinedPrediction:
    one = sample(target, task=TASK.name, image=image, id=image, **more)
    text = Prediction(sample_id=image, text="", finish_reason=FinishReason.STOP)
    return JoinedPrediction(one, text, reading(answer))


def by_image(questions: Sequence[BoxQuestion]) -> list[JoinedPrediction]:
    """One question for each image, about the classes of its questions."""
    held: dict[str, list[BoxQuestion]] = defaultdict(list)
    for one in questions:
        held[one.image].append(one)

    def boxes(found: Sequence[tuple[float, float, float, float]]) -> list[Box]:
        return [box(*xyxy) for xyxy in found]

    joined = []
    for image, own in held.items():
        found = [
            (score, Detection(box=place, confidence=score, label=one.label))
            for one in own
            for place, score in zip(boxes(one.boxes), one.scores, strict=True)
        ]
        # Boxes of different classes alternate; those of one class stay in their order.
        found.sort(key=lambda scored: -scored[0])
        target = LabelledDetections(
            items=tuple(Detection(box=place, label=one.label) for one in own for place in boxes(one.targets)),
            classes=tuple(one.label for one in own),
            crowd=tuple(Detection(box=place, label=one.label) for one in own for place in boxes(one.crowd)),
        )
        areas = [area for one in own for area in one.areas or [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in one.targets]]
        answer = LabelledDetections(items=tuple(item for _, item in found))
        joined.append(join(answer, target, image=image, areas=tuple(areas)))
    return joined


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(box_questions())
def test_average_precision_is_that_of_pycocotools(questions: list[BoxQuestion]) -> None:
    questions = untied(questions)
    assert TASK.measure_dataset is not None
    joined = by_image(questions)
    found = TASK.measure_dataset(joined, {}).values
    expected = reference(questions) if any(one.targets for one in questions) else {}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    images = list(dict.fromkeys(one.image for one in joined))
    if expected and TASK.statistics is not None:
        import numpy as np

        (statistic,) = TASK.statistics(joined, images)
        assert statistic(np.ones(len(images)))["ap"] == pytest.approx(expected["ap"], abs=1e-9)


boxes_of_classes = st.lists(
    st.tuples(st.sampled_from(["cat", "dog", "hen"]), st.sampled_from([A, B, C, (0, 0, 20, 18)])), max_size=5
)


@given(st.lists(st.tuples(boxes_of_classes, boxes_of_classes), min_size=1, max_size=4))
def test_f1_is_that_of_a_question_about_each_class(images: list[tuple[list, list]]) -> None:  # type: ignore[type-arg]
    classes = ("cat", "dog", "hen")
    pairs = [(reading(labelled(*found)), labelled(*targets, classes=classes)) for found, targets in images]
    measured = multiclass_metrics(pairs)

    def only(found: LabelledDetections, label: str) -> Detections:
        return Detections(items=tuple(item for item in found.items if item.label == label))

    by_class = {
        label: [(reading(only(answer.answer, label)), only(target, label)) for answer, target in pairs]
        for label in classes
    }
    single = detection_metrics([pair for held in by_class.values() for pair in held])
    for name in ("precision", "recall", "f1", "f1_mean", "false_positive_rate"):
        assert measured.values[name] == pytest.approx(single.values[name]), name
    macro = {
        label: detection_metrics(held).values["f1"]
        for label, held in by_class.items()
        if any(answer.answer.items or target.items for answer, target in held)  # type: ignore[attr-defined]
    }
    assert measured.tables["f1"] == macro
    assert measured.counts["num_class_questions"] == 3 * len(pairs)


def test_labels_outside_the_question_are_false_positives() -> None:
    target = labelled(("cat", A), classes=("cat", "dog"))
    answer = reading(labelled(("cat", A), ("cow", B)))
    measured = multiclass_metrics([(answer, target)])
    assert (measured.values["precision"], measured.values["unlisted_frac"]) == (0.5, 0.5)
    assert measured.values["false_positive_rate"] == 0.0  # dog is the only absent class of the question
    assert measured.counts["num_unlisted"] == 1
    # average precision knows the classes of the question alone
    assert [one.sample.query for one in split_predictions([join(answer.answer, target)])] == ["cat", "dog"]


def test_p_yes_belongs_to_its_box_in_every_class() -> None:
    target = labelled(("cat", A), ("dog", B), classes=("cat", "dog"))
    one = join(labelled(("dog", B), ("cow", C), ("cat", A)), target)
    one = one._replace(prediction=replace(one.prediction, yes_probs=(0.1, 0.2, 0.3)))
    found = {part.sample.query: part.prediction.yes_probs for part in split_predictions([one])}
    assert found == {"cat": (0.3,), "dog": (0.1,)}
    assert TASK.measure_dataset is not None
    assert TASK.measure_dataset([one], {}).values["ap_yes"] == 1.0


def test_an_unreadable_answer_misses_every_target() -> None:
    target = labelled(("cat", A), ("dog", B), classes=("cat", "dog"))
    measured = multiclass_metrics([(reading(Unreadable(reason="?")), target), (reading(target), target)])
    assert (measured.values["recall"], measured.values["precision"]) == (0.5, 1.0)
    assert measured.values["unreadable_frac"] == 0.5
    assert measured.counts["num_questions"] == 2


def test_classes_that_are_not_annotated_exhaustively_count_in_average_precision_alone() -> None:
    target = replace(labelled(("cat", A), ("dog", B), classes=("cat", "dog")), incomplete=("dog",))
    answer = labelled(("cat", A), ("dog", C))
    measured = multiclass_metrics([(reading(answer), target)])
    assert (measured.values["f1"], measured.counts["num_targets"]) == (1.0, 1)
    assert [one.sample.exhaustive for one in split_predictions([join(answer, target)])] == [True, False]


def test_label_accuracy_is_of_the_targets_that_are_localised() -> None:
    target = labelled(("cat", A), ("dog", B), ("dog", C), classes=("cat", "dog"))
    answer = labelled(("Cat", A), ("cat", B), ("cow", (55, 30, 60, 40)))
    # cat found as a cat, a dog found as a cat, a dog missed
    assert label_accuracy([join(answer, target)]) == 0.5
    assert label_accuracy([join(labelled(), target)]) == 0.0
