"""Reward-hacking probes of the mask reward, with segmenters of different kinds."""

from __future__ import annotations

import random

import pytest

from mask_questions import SEGMENTERS, masked, sails
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


def groups_of_sails(task: str) -> list[Sample]:
    """40 images with one to three sails that do not overlap, each in a column of its own."""
    rng = random.Random(0)
    found = []
    for number in range(40):
        corners = []
        for column in range(rng.randint(1, 3)):
            width, height = rng.randint(8, 30), rng.randint(8, 60)
            x, y = 33 * column + rng.randint(0, 33 - width), rng.randint(0, 100 - height)
            corners.append((x, y, x + width, y + height))
        found.append(sails(*corners, task=task, id=str(number)))
    return found


@pytest.mark.parametrize("task", ["detection", "multiclass_detection"])
@pytest.mark.parametrize("kind", SEGMENTERS)
@pytest.mark.parametrize("options", [{}, {"weights": {"mask": 10.0}}, {"iou_threshold": 0.1}], ids=str)
def test_no_probe_of_detection_has_the_reward_of_a_half_right_answer(task: str, kind: str, options: dict) -> None:
    grader = Grader(
        rule=RewardRule(uses_masks=True, **options),
        thinking=False,
        box_space=BoxSpace.RELATIVE_1000,
        segment=SEGMENTERS[kind],
    )
    (report,) = audit_reward(groups_of_sails(task), grader)
    assert report.margin > 0
    assert not report.exploits
    parts = {one.name: one.parts["mask"] for one in report.answers}
    assert parts["correct"] == 1.0
    assert 0.2 < parts["half right"] <= 0.5
    assert parts["always No Objects"] == 0.0


def test_the_threshold_of_the_last_step_decides_which_masks_are_rewarded() -> None:
    grader = Grader(
        rule=RewardRule(uses_masks=True, iou_threshold=0.5, iou_threshold_end=0.9),
        thinking=False,
        box_space=BoxSpace.RELATIVE_1000,
        segment=SEGMENTERS["salient"],
    )
    first, last = audit_reward(groups_of_sails("detection"), grader)
    moved = [next(one for one in report.answers if one.name == "boxes at IoU 0.7") for report in (first, last)]
    assert [one.parts["mask"] for one in moved] == [1.0, 0.0]


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
