"""Intervals of resampled images, and average precision that resampling can do quickly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from box_questions import box_questions
from virft.metrics.average_precision import BoxQuestion, average_precision
from virft.metrics.bootstrap import ap_statistic, draws, intervals, ratio_statistic


@settings(max_examples=60, deadline=None)
@given(box_questions())
def test_each_image_drawn_once_gives_the_evaluators_number(questions: list[BoxQuestion]) -> None:
    images = list(dict.fromkeys(one.image for one in questions))
    found = ap_statistic(questions, images=images)(np.ones(len(images)))
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


def test_an_interval_is_as_wide_as_theory_says() -> None:
    # a share of 0.5 in 400 images: standard error 0.025, so 1.96 of them on each side
    right = [1.0, 0.0] * 200
    ((name, (low, high)),) = intervals(ratio_statistic({"accuracy": (right, [1.0] * 400)}), 400).items()
    assert name == "accuracy"
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.01)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.01)


def test_questions_about_an_image_stay_together() -> None:
    # 8 questions, but only 2 images: one with all right and one with all wrong
    ends = intervals(ratio_statistic({"accuracy": ([4.0, 0.0], [4.0, 4.0])}), 2)
    assert ends["accuracy"] == (0.0, 1.0)


def test_a_single_image_has_no_interval() -> None:
    assert intervals(ratio_statistic({"accuracy": ([1.0], [2.0])}), 1) == {}
