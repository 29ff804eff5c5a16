"""Reward-hacking probes of the mask reward, with segmenters of different kinds."""

from __future__ import annotations

import random

import pytest

from mask_questions import SEGMENTERS, masked
from virft.audit.audit import AuditReport, audit_reward
from virft.geometry.boxes import BoxSpace
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import Sample


def questions() -> list[Sample]:
    """40 sails of a tenth to a half of the image's sides, anywhere."""
    rng = random.Random(0)
    found = []
    for number in range(40):
        width, height = rng.randint(10, 50), rng.randint(10, 50)
        x, y = rng.randint(0, 100 - width), rng.randint(0, 100 - height)
        found.append(masked(x, y, x + width, y + height, id=str(number)))
    return found


def audit(kind: str, **rule) -> AuditReport:
    grader = Grader(
        rule=RewardRule(uses_masks=True, **rule),
        thinking=False,
        box_space=BoxSpace.RELATIVE_1000,
        segment=SEGMENTERS[kind],
    )
    (report,) = audit_reward(questions(), grader)
    return report


@pytest.mark.parametrize("kind", SEGMENTERS)
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_no_probe_has_the_reward_of_a_half_right_answer(kind: str, weight: float) -> None:
    report = audit(kind, weights={"mask": weight})
    assert report.margin > 0
    parts = {one.name: one.parts["mask"] for one in report.answers}
    assert parts["correct"] == 1.0
    assert parts["whole image"] == parts["several boxes"] == 0.0


def test_the_published_formula_is_exploited_by_the_whole_image() -> None:
    report = audit("salient", preset="paper")
    assert report.best_probe.name == "whole image"
    assert report.best_probe.parts["mask"] == 1.0


def test_parts_are_means_over_the_samples_with_a_mask() -> None:
    from dataclasses import replace

    some = [replace(one, polygons=()) if i % 2 else one for i, one in enumerate(questions())]
    grader = Grader(
        rule=RewardRule(uses_masks=True),
        thinking=False,
        box_space=BoxSpace.RELATIVE_1000,
        segment=SEGMENTERS["inside"],
    )
    (report,) = audit_reward(some, grader)
    assert next(one for one in report.answers if one.name == "correct").parts["mask"] == 1.0
