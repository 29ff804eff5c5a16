"""The fraction of images with the most common answer, next to that of the most common target."""

from __future__ import annotations

import pytest

from factories import box, detections, sample
from virft.tasks.common_answer import common_answer_metrics
from virft.types import Answer, Label, Sample, Unreadable

SIZE = (100, 100)


def at(number: int, answer: Answer) -> tuple[Sample, Answer]:
    """An answer about an image with a fox at a place of its own."""
    target = detections((10 * number, 0, 10 * number + 10, 40))
    return sample(target, id=f"{number}", image=f"{number}.png", size=SIZE), answer


def fractions(*answered: tuple[Sample, Answer]) -> tuple[float, float]:
    found = common_answer_metrics(answered)
    return found["common_answer_frac"], found["common_target_frac"]


def test_nearly_equal_boxes_are_the_same_answer() -> None:
    # IoU of the first two 90 x 100 / (91 x 100) = 0.989; the third has 0.78 with them
    boxes = [(10, 0, 100, 100), (9, 0, 100, 100), (30, 0, 100, 100), (0, 0, 10, 10)]
    assert fractions(*[at(i, detections(one)) for i, one in enumerate(boxes)]) == (0.5, 0.25)


def test_boxes_are_compared_relative_to_their_images() -> None:
    sizes = [(100, 100), (200, 100), (50, 80), (10, 10)]
    whole = [
        (sample(id=f"{i}", image=f"{i}.png", size=size), detections((0, 0, *size))) for i, size in enumerate(sizes)
    ]
    assert fractions(*whole)[0] == 1.0


def test_no_objects_is_an_answer_and_an_unreadable_one_is_none() -> None:
    unreadable = Unreadable(reason="no answer block")
    answers = [detections(), detections(), unreadable, unreadable]
    assert fractions(*[at(i, one) for i, one in enumerate(answers)]) == (0.5, 0.25)


def test_a_different_number_of_boxes_is_another_answer() -> None:
    one = (0, 0, 50, 50)
    answers = [detections(one), detections(one, one), detections(one), detections()]
    assert fractions(*[at(i, answer) for i, answer in enumerate(answers)])[0] == 0.5


def test_labels_and_boxes_of_grounding_are_compared_too() -> None:
    labels = [
        (sample(Label(text="fox"), id=f"{i}", image=f"{i}.png", task="classification"), Label(text=text))
        for i, text in enumerate(("Fox", "fox", "cat", "FOX"))
    ]
    assert fractions(*labels) == (0.75, 1.0)
    boxes = [
        (sample(box(i, 0, i + 5, 5), id=f"{i}", image=f"{i}.png", task="grounding"), box(0, 0, 60, 40))
        for i in (0, 10, 20, 30)
    ]
    assert fractions(*boxes) == (1.0, 0.25)


def test_an_image_counts_once_and_few_images_say_nothing() -> None:
    answered = [at(i, detections()) for i in range(4)]
    again = [(sample(id=f"again {i}", image="0.png", size=SIZE), detections((0, 0, 9, 9))) for i in range(9)]
    assert fractions(*answered, *again)[0] == 1.0
    assert common_answer_metrics([*answered[:3], *again]) == {}


@pytest.mark.parametrize("number", [200, 300])
def test_at_most_200_images_are_compared(number: int) -> None:
    answered = [at(i, detections((0, 0, 9, 9)) if i < 200 else detections()) for i in range(number)]
    assert fractions(*answered)[0] == 1.0
