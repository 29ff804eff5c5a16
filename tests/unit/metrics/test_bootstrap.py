"""Intervals of resampled images, and average precision that resampling can do quickly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from box_questions import box_questions
from virft.metrics.average_precision import BoxQuestion, average_precision
from virft.metrics.bootstrap import (
    Resampled,
    ap_statistic,
    difference_intervals,
    draws,
    ratio_statistic,
    resample,
)


@settings(max_examples=60, deadline=None)
@given(box_questions())
def test_each_image_drawn_once_gives_the_evaluators_number(questions: list[BoxQuestion]) -> None:
    images = list(dict.fromkeys(one.image for one in questions))
    found = ap_statistic(questions, images=images)(np.ones(len(images)))  # boxes with equal scores too
    expected = average_precision(questions).values
    for name in ("ap", "ap50"):
        assert found[name] == pytest.approx(expected.get(name, 0.0), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(box_questions())
def test_an_image_drawn_twice_counts_like_two_images(questions: list[BoxQuestion]) -> None:
    # no two equal scores: boxes of equal score lie in another order where an image stands twice
    ranks = iter(np.linspace(1.0, 0.0, sum(len(one.boxes) for one in questions)))
    questions = [replace(one, scores=[float(next(ranks)) for _ in one.boxes]) for one in questions]
    images = list(dict.fromkeys(one.image for one in questions))
    weights = np.array([1.0 + number % 2 for number in range(len(images))])
    copies = [
        replace(one, image=f"{one.image}{copy}")
        for one in questions
        for copy in range(int(weights[images.index(one.image)]))
    ]
    found = ap_statistic(questions, images=images)(weights)
    names = list(dict.fromkeys(one.image for one in copies))
    doubled = ap_statistic(copies, images=names)(np.ones(len(names)))
    assert found == pytest.approx(doubled, abs=1e-9)


def test_draws_are_the_same_each_time_and_hold_every_image_once_on_average() -> None:
    drawn = draws(50)
    assert (drawn == draws(50)).all()
    assert (drawn.sum(1) == 50).all()
    assert drawn.mean() == 1.0


def shares(right: list[float]) -> Resampled:
    images = [str(number) for number in range(len(right))]
    return resample([ratio_statistic({"accuracy": (right, [1.0] * len(right))})], images)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    # a share of 0.5 in 400 images: standard error 0.025, so 1.96 of them on each side
    right = [1.0, 0.0] * 200
    ((name, (low, high)),) = shares(right).intervals().items()
    assert name == "accuracy"
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.01)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.01)


def test_questions_about_an_image_stay_together() -> None:
    # 8 questions, but only 2 images: one with all right and one with all wrong
    found = resample([ratio_statistic({"accuracy": ([4.0, 0.0], [4.0, 4.0])})], ["a", "b"])
    assert found.intervals()["accuracy"] == (0.0, 1.0)


def test_a_single_image_has_no_interval() -> None:
    assert shares([1.0]).intervals() == {}


def test_a_paired_difference_has_a_narrower_interval_than_its_two_metrics() -> None:
    before = [1.0, 0.0] * 200
    # 20 of 400 images more: 0.05, each image counted with its own change
    after = [max(one, float(number < 40)) for number, one in enumerate(before)]
    ((low, high),) = difference_intervals([shares(before)], [shares(after)]).values()
    # a change of 1 in 5 % of the images: standard error sqrt(0.05 x 0.95 / 400) = 0.0109
    assert low == pytest.approx(0.05 - 1.96 * 0.0109, abs=0.006)
    assert high == pytest.approx(0.05 + 1.96 * 0.0109, abs=0.006)


def test_seeds_count_by_their_mean() -> None:
    nothing, everything = shares([0.0] * 4), shares([1.0] * 4)
    # the means are 0.5 and 1
    assert difference_intervals([nothing, everything], [everything]) == {"accuracy": (0.5, 0.5)}


def test_equal_answers_differ_by_zero_and_other_images_have_no_interval() -> None:
    assert difference_intervals([shares([1.0, 0.0])], [shares([1.0, 0.0])]) == {"accuracy": (0.0, 0.0)}
    assert difference_intervals([shares([1.0, 0.0])], [shares([1.0, 0.0, 1.0])]) == {}
    assert difference_intervals([], [shares([1.0, 0.0])]) == {}
