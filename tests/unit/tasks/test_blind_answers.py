"""Image-blind answers of each task, fitted on training samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from factories import box, detections, labelled, sample
from virft.geometry.points import point_target
from virft.tasks import TASKS
from virft.tasks.constant_box import find_best_box
from virft.tasks.counting import Count
from virft.types import Detections, Label, Sample, ShortAnswer

SIZE = (100, 50)


def _answers(samples: list[Sample], at: Sample | None = None) -> dict[str, Any]:
    """The blind answers to a sample, by name."""
    at = at or samples[0]
    return {name: answer(at) for name, answer in TASKS[at.task].blind_answers(samples).items()}


def test_the_mean_box_is_relative_to_the_size_of_each_image() -> None:
    samples = [
        sample(detections((0, 0, 50, 25)), size=(100, 50)),  # (0, 0, 500, 500) in thousandths
        sample(detections((40, 20, 200, 100)), size=(200, 100)),  # (200, 200, 1000, 1000)
    ]
    # Mean (100, 100, 750, 750), in pixels of an image of 400 x 300.
    assert _answers(samples, sample(size=(400, 300)))["mean box"] == detections((40, 30, 300, 225))


def test_a_detection_dataset_of_several_classes_has_a_mean_box_for_each() -> None:
    samples = [
        sample(detections((0, 0, 20, 10)), query="fox", size=SIZE),
        sample(detections((60, 20, 80, 30)), query="hen", size=SIZE),
        sample(detections(), query="owl", size=SIZE),
    ]
    found = {at.query: _answers(samples, at)["mean box of the class"] for at in samples}
    everything = detections((30, 10, 50, 20))
    assert found == {"fox": samples[0].target, "hen": samples[1].target, "owl": everything}
    assert _answers(samples, sample(query="cow", size=SIZE))["mean box of the class"] == everything
    assert "mean box of the class" not in _answers(samples[:1])


def test_detection_without_training_samples_has_the_whole_image_and_no_objects() -> None:
    answers = TASKS["detection"].blind_answers([])
    found = {name: answer(sample(size=SIZE)) for name, answer in answers.items()}
    assert found == {"whole image": detections((0, 0, 100, 50)), "No Objects": Detections()}


def test_training_samples_without_boxes_have_no_mean_box() -> None:
    assert list(_answers([sample(detections())])) == ["whole image", "No Objects"]


def test_grounding_has_one_box_for_every_expression() -> None:
    samples = [sample(box(0, 0, 50, 25), task="grounding", size=SIZE, query=query) for query in ("red", "blue")]
    assert _answers(samples) == {
        "mean box": box(0, 0, 50, 25),
        "best constant box": box(0, 0, 50, 25),
        "whole image": box(0, 0, 100, 50),
    }


def test_classification_answers_the_commonest_label() -> None:
    labels = ("hen", "fox", "fox")
    samples = [sample(Label(text=text, aliases=("a",)), task="classification") for text in labels]
    assert _answers(samples) == {"commonest label": Label(text="fox")}


def test_counting_answers_the_most_frequent_count_of_all_and_of_the_class() -> None:
    counts = {"fox": (1, 1, 1), "hen": (4, 4)}
    samples = [sample(Count(number), task="counting", query=query) for query, held in counts.items() for number in held]
    found = _answers(samples, samples[-1])
    assert found == {"most frequent count": Count(1), "most frequent count of the class": Count(4)}


@pytest.mark.parametrize("name", TASKS)
def test_the_target_of_a_test_sample_does_not_change_its_blind_answers(name: str) -> None:
    targets = {
        "detection": [detections((0, 0, 30, 30)), detections((20, 5, 60, 40)), detections()],
        "grounding": [box(0, 0, 30, 30), box(20, 5, 60, 40), box(5, 5, 9, 9)],
        "classification": [Label(text="a"), Label(text="b"), Label(text="b")],
        "counting": [Count(1), Count(2), Count(2)],
        "multiclass_detection": [
            labelled(("x", (0, 0, 30, 30)), classes="xyz"),
            labelled(("y", (20, 5, 60, 40)), ("x", (0, 0, 30, 30)), classes="xyz"),
            labelled(classes="xyz"),
        ],
        "short_answer": [ShortAnswer(answers=(text,)) for text in ("red", "blue", "blue")],
        "pointing": [point_target([box(0, 0, 30, 30)]), point_target([box(20, 5, 60, 40)]), point_target([])],
    }[name]
    train = [sample(target, task=name, query=query) for target, query in zip(targets, "xyz", strict=True)]
    answers = TASKS[name].blind_answers(train)
    test = sample(targets[0], task=name, query="y")
    others = [replace(test, target=target) for target in targets[1:]]
    assert answers
    for answer in answers.values():
        assert [answer(one) for one in others] == [answer(test)] * len(others)


# --- the search for the best constant box ---


def test_the_best_box_hits_more_questions_than_the_mean_box() -> None:
    left, right = (0, 0, 400, 400), (600, 600, 1000, 1000)
    # The mean box lies between both places and hits nothing.
    assert find_best_box([[left], [left], [right]], hit_iou=0.5) == left


def test_one_of_several_targets_is_enough_for_a_hit() -> None:
    a, b = (0, 0, 300, 300), (500, 500, 900, 900)
    assert find_best_box([[a, b], [b], [a, b]], hit_iou=0.5) == b


def test_the_local_search_hits_boxes_that_no_training_box_hits_together() -> None:
    # IoU of the outer boxes with each other: 200 / 600; with the box between them: 300 / 500.
    assert find_best_box([[(0, 0, 400, 1000)], [(200, 0, 600, 1000)]], hit_iou=0.5) is not None
    x1, _, x2, _ = find_best_box([[(0, 0, 400, 1000)], [(200, 0, 600, 1000)]], hit_iou=0.55) or (0, 0, 0, 0)
    for left in (0, 200):
        overlap = min(x2, left + 400) - max(x1, left)
        assert overlap / (x2 - x1 + 400 - overlap) > 0.55


def test_no_boxes_have_no_best_box() -> None:
    assert find_best_box([[], []], hit_iou=0.5) is None


@pytest.mark.parametrize("hit_iou", [None, 0.5])
def test_the_best_box_is_at_least_as_good_as_every_training_box_and_the_mean_box(hit_iou: float | None) -> None:
    from virft.geometry.boxes import intersection_over_union

    rng = np.random.default_rng(0)
    low = rng.integers(0, 500, (30, 2))
    high = low + rng.integers(50, 500, (30, 2))
    boxes = [tuple(map(float, row)) for row in np.hstack([low, high])]
    found = find_best_box([[one] for one in boxes], hit_iou=hit_iou)
    assert found is not None

    def score(candidate: tuple[float, ...]) -> float:
        ious = [intersection_over_union(candidate, one) for one in boxes]  # type: ignore[arg-type]
        return sum(ious) if hit_iou is None else sum(iou > hit_iou for iou in ious)

    mean = tuple(np.mean(boxes, axis=0).tolist())
    assert score(found) >= max(map(score, [*boxes, mean, (0, 0, 1000, 1000)]))
