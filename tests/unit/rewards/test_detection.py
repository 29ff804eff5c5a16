"""Tests of ``virft.rewards.detection``."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answer_factories import box, detections, grid_boxes, near_boxes, scenes
from virft.rewards.detection import (
    detection_rewards,
    iou_threshold_at,
    match_best,
    match_like_paper,
    paper_detection_rewards,
)
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import Detection, Detections, InvalidElement, Reading, RewardContext, Unreadable

HIT = (0, 0, 100, 100)
FAR = (500, 500, 600, 600)
rules = st.builds(
    RewardRule,
    weights=st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.5, 1.0, 3.0]) for name in ("iou", "confidence", "format")}
    ),
    iou_threshold=st.sampled_from([0.0, 0.1, 0.5, 0.75]),
)


def says(answer):
    return Reading(text="", well_formed=True, answer=answer)


def robust(answer, target, **settings):
    return detection_rewards(says(answer), target, RewardContext(), **settings)


def total(rule, answer, target):
    return compute_reward(rule, "detection", says(answer), target).total


def test_an_extra_box_and_a_missing_box_lower_the_iou_part():
    assert robust(detections(HIT), detections(HIT))["iou"] == 1.0
    assert robust(detections(HIT, FAR), detections(HIT))["iou"] == 0.5
    assert robust(detections(HIT), detections(HIT, FAR))["iou"] == 0.5


def test_confidence_of_hits_and_misses():
    answer = detections((*HIT, 0.5), (*FAR, 0.5))
    # hit: 2 * 0.5 - 0.25 = 0.75; miss: -0.25; over max(2, 1)
    assert robust(answer, detections(HIT))["confidence"] == pytest.approx(0.25)


def test_the_worst_confidence_part_is_minus_1():
    assert robust(detections((*FAR, 1.0)), detections(HIT))["confidence"] == -1.0


def test_an_iou_equal_to_the_threshold_is_a_hit():
    half = detections((0, 0, 100, 50))
    assert robust(half, detections(HIT)) == {"iou": 0.5, "confidence": 1.0}
    assert robust(half, detections(HIT), iou_threshold=0.501) == {"iou": 0.0, "confidence": -1.0}
    assert robust(detections(FAR), detections(HIT), iou_threshold=0.0) == {"iou": 0.0, "confidence": -1.0}


def test_the_papers_threshold_is_exclusive_as_in_its_code():
    assert match_like_paper(detections((0, 0, 100, 50)), detections(HIT), iou_threshold=0.5).targets == (None,)


def test_a_box_in_a_crowd_region_costs_and_earns_nothing():
    crowd = (box(500, 500, 900, 900),)
    inside = (600, 600, 700, 700, 0.9)
    target = replace(detections(HIT), crowd=crowd)
    assert robust(detections(HIT, inside), target) == robust(detections(HIT), target)
    assert robust(detections(HIT, inside), detections(HIT))["iou"] == 0.5
    assert robust(detections(inside), target) == {"iou": 0.0, "confidence": 0.0}
    assert robust(detections(inside), Detections(crowd=crowd)) == {"iou": 1.0, "confidence": 0.0}
    paper = [
        paper_detection_rewards(says(answer), target, RewardContext())
        for answer in (detections(HIT, inside), detections(HIT), detections(inside))
    ]
    assert paper[0] == paper[1]
    assert paper[2] == {"iou": 0.0, "confidence": 0.0}


def test_invalid_elements_count_in_n_and_nowhere_else():
    answer = Detections(items=detections(HIT).items, invalid=(InvalidElement(reason="", piece=""),) * 3)
    assert robust(answer, detections(HIT)) == {"iou": 0.25, "confidence": 0.25}


def test_an_unreadable_answer_earns_nothing_even_where_there_are_no_objects():
    assert robust(Unreadable(reason="no answer block"), detections()) == {"iou": 0.0, "confidence": 0.0}


def test_with_equal_ious_the_surer_box_is_the_hit():
    matching = match_best(detections((*HIT, 0.2), (*HIT, 0.9)), detections(HIT), iou_threshold=0.5)
    assert matching.targets == (None, 0)


def test_confidence_takes_part_in_the_matching_in_proportion_to_its_weight():
    # IoU 0.9 at confidence 0.5 counts 1.9; IoU 0.8 at 0.7 counts 2.2, but 0.8 if confidence has no weight.
    answer, target = detections((0, 0, 100, 90, 0.5), (0, 0, 100, 80, 0.7)), detections(HIT)
    assert match_best(answer, target, iou_threshold=0.5).targets == (None, 0)
    assert match_best(answer, target, iou_threshold=0.5, confidence_weight=0.0).targets == (0, None)
    assert match_best(answer, target, iou_threshold=0.5, iou_weight=0.0, confidence_weight=0.0).targets == (0, None)


@pytest.mark.parametrize(("second", "hit"), [(0.62, 0), (0.63, 1)])
def test_confidence_weighs_twice_as_much_as_iou(second, hit):
    # IoU 0.75 at 0.5 counts 1.75; IoU 0.5 at 0.62 and 0.63: 1.74 and 1.76.
    answer, target = detections((0, 0, 100, 75, 0.5), (0, 0, 100, 50, second)), detections(HIT)
    assert match_best(answer, target, iou_threshold=0.25).targets[hit] == 0
    assert robust(answer, target, iou_threshold=0.25)["iou"] == (0.375, 0.25)[hit]


def test_with_confidence_alone_the_surer_box_is_the_hit():
    answer, target = detections((0, 0, 100, 90, 0.5), (0, 0, 100, 60, 0.6)), detections(HIT)
    assert match_best(answer, target, iou_threshold=0.5).targets == (0, None)
    assert match_best(answer, target, iou_threshold=0.5, iou_weight=0.0).targets == (None, 0)


def test_the_threshold_moves_in_a_straight_line():
    ends = [iou_threshold_at(0.8, 0.2, RewardContext(step_frac=step_frac)) for step_frac in (0.0, 0.5, 1.0)]
    assert ends == [0.8, 0.5, pytest.approx(0.2)]


@given(scenes(), rules, st.data())
def test_order_in_the_text_and_in_the_target_changes_nothing(scene, rule, data):
    answer, target = scene
    mixed_answer = Detections(items=tuple(data.draw(st.permutations(answer.items))))
    mixed_target = Detections(items=tuple(data.draw(st.permutations(target.items))))
    first = compute_reward(rule, "detection", says(answer), target)
    second = compute_reward(rule, "detection", says(mixed_answer), mixed_target)
    assert first.parts == second.parts
    assert first.total == second.total


def moved(answer, index, target_box, way):
    item = answer.items[index]
    corners = [(1 - way) * a + way * b for a, b in zip(item.box.xyxy, target_box.xyxy, strict=True)]
    items = list(answer.items)
    items[index] = Detection(box=box(*corners), confidence=item.confidence)
    return Detections(items=tuple(items))


@settings(max_examples=300)
@given(scenes(), rules, st.floats(0, 1), st.data())
def test_the_total_never_falls_when_a_matched_box_comes_closer_to_its_target(scene, rule, way, data):
    answer, target = scene
    matching = match_best(
        answer,
        target,
        iou_threshold=rule.iou_threshold,
        iou_weight=rule.weight("iou"),
        confidence_weight=rule.weight("confidence"),
    )
    matched = [index for index, found in enumerate(matching.targets) if found is not None]
    if matched:
        index = data.draw(st.sampled_from(matched))
        closer = moved(answer, index, target.items[matching.targets[index]].box, way)
        assert total(rule, closer, target) >= total(rule, answer, target) - 1e-9


@pytest.mark.parametrize(
    ("threshold", "rows", "targets", "index"),
    [
        # By IoU alone the reward falls from 1.22 to 0.24 when the first box has gone a quarter of its way,
        (0.0, [(20, 100, 0.5), (30, 90, 1.0)], [(0, 80), (20, 30)], 0),
        # and here from 1.26 to 0.29 when the second has.
        (0.25, [(40, 80, 1.0), (0, 110, 0.5)], [(30, 110), (70, 100)], 1),
    ],
)
def test_the_total_does_not_fall_where_a_matching_by_iou_alone_would_jump(threshold, rows, targets, index):
    answer = detections(*((x1, 0, x2, 100, confidence) for x1, x2, confidence in rows))
    target = detections(*((x1, 0, x2, 100) for x1, x2 in targets))
    rule = RewardRule(iou_threshold=threshold)
    goal = target.items[match_best(answer, target, iou_threshold=threshold).targets[index]].box
    totals = [total(rule, moved(answer, index, goal, step / 20), target) for step in range(21)]
    assert totals == sorted(totals)


def test_ties_are_resolved_by_box_and_not_by_position():
    # IoU 0.75 at confidence 0.5 and IoU 0.5 at 0.625 are both worth 1.75: the parts differ, the total does not.
    first, second = (0, 0, 100, 75, 0.5), (0, 0, 100, 50, 0.625)
    target = detections(HIT)
    parts = robust(detections(first, second), target, iou_threshold=0.25)
    assert parts == robust(detections(second, first), target, iou_threshold=0.25)
    assert parts["iou"] == 0.25


@given(scenes(), rules)
def test_no_other_matching_has_a_larger_reward(scene, rule):
    answer, target = scene
    best = total(rule, answer, target)
    num = max(len(answer.items), len(target.items))
    greedy = match_like_paper(answer, target, iou_threshold=rule.iou_threshold)
    other = sum(
        rule.weight("iou") * iou
        + rule.weight("confidence") * item.confidence * ((2.0 if found is not None else 0.0) - item.confidence)
        for item, found, iou in zip(answer.items, greedy.targets, greedy.ious, strict=True)
    )
    assert best >= other / num + rule.weight("format") - 1e-9


@given(grid_boxes(), st.data(), rules, st.floats(0, 1))
def test_a_copy_of_the_box_that_matched_the_only_target_never_raises_the_reward(row, data, rule, confidence):
    found, target = detections((*data.draw(near_boxes(row)), confidence)), detections(row)
    if match_best(found, target, iou_threshold=rule.iou_threshold).targets == (0,):
        copied = Detections(items=found.items * 2)
        assert total(rule, copied, target) <= total(rule, found, target) + 1e-9


def test_paper_keeps_the_first_of_exact_duplicates():
    matching = match_like_paper(detections((*HIT, 0.2), (*HIT, 0.9)), detections(HIT), iou_threshold=0.5)
    assert (matching.targets, matching.dropped) == ((0, None), {1})
    parts = paper_detection_rewards(says(detections((*HIT, 0.2), (*HIT, 0.9))), detections(HIT), RewardContext())
    assert parts == {"iou": 1.0, "confidence": 0.2}
