"""Every exploit and trap known from public implementations, closed by ``robust``; some are kept by ``paper``.

One test per row of the table in the specification (docs/rewards.md), named as a sentence.
"""

from __future__ import annotations

import time

import pytest

from answer_factories import (
    FRAME,
    box,
    classification,
    detection,
    detections,
    grounding,
    in_blocks,
    written,
)
from virft.tasks.reward import RewardRule, compute_reward
from virft.text.answers import read_classification, read_detection, read_grounding
from virft.types import Label, RewardContext, Unreadable

ROBUST, PAPER = RewardRule(), RewardRule(preset="paper")
HIT = (0, 0, 100, 100)
FAR = (500, 500, 600, 600)
JUNK = (700, 700, 710, 710)


def detection_parts(rule, answer, target, context=None):
    return compute_reward(rule, "detection", detection(answer), target, context).parts


def label_part(rule, answer, name, aliases=()):
    return compute_reward(rule, "classification", classification(answer), Label(text=name, aliases=aliases)).parts[
        "label"
    ]


def giou_part(rule, answer):
    return compute_reward(rule, "grounding", grounding(answer), box(*HIT)).parts["giou"]


def test_robust_does_no_symbolic_math_so_one_equal_number_gets_no_reward():
    # y1 of both boxes is 100; the symbolic check of the published code calls them equal.
    assert detection_parts(ROBUST, "[[500, 100, 600, 200]]", detections((0, 100, 50, 150)))["iou"] == 0.0
    assert label_part(ROBUST, "2 + 10", "12") == 0.0


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("2012", "Audi A5 Coupe 2012"),
        ("cat or dog or fox", "dog"),
        ("cat", "caterpillar"),
        ("a", "cat"),
        ("...", "cat"),
    ],
)
def test_robust_does_not_accept_a_part_of_a_name(answer, name):
    assert label_part(ROBUST, answer, name) == 0.0


def test_robust_accepts_a_name_in_another_spelling_or_by_an_alias():
    assert label_part(ROBUST, "AUDI_a5, coupé 2012.", "Audi A5 Coupé 2012") == 1.0
    assert label_part(ROBUST, "tomcat", "cat", aliases=("Tom-Cat",)) == 1.0


@pytest.mark.parametrize("answer", ["", "   ", "\u200b"])
def test_robust_gives_no_reward_for_an_empty_label(answer):
    assert label_part(ROBUST, answer, "cat") == 0.0


@pytest.mark.parametrize(
    "confidence", ["NaN", "-5.5", "10", "-Infinity", "Infinity", "1e999", "-1e999", "1.001", "True"]
)
@pytest.mark.parametrize("rule", [ROBUST, PAPER], ids=["robust", "paper"])
def test_robust_and_paper_let_no_confidence_outside_0_1_reach_a_reward(rule, confidence):
    parts = detection_parts(rule, f"[{{'Position': [0, 0, 100, 100], 'Confidence': {confidence}}}]", detections(HIT))
    assert (parts["iou"], parts["confidence"]) == (0.0, 0.0)


def test_robust_gives_no_reward_for_junk_boxes_at_confidence_0():
    assert detection_parts(ROBUST, written((*JUNK, 0.0)), detections(HIT))["confidence"] == 0.0


def test_robust_divides_confidence_by_missed_objects_too():
    # (2 * 1 - 1) / max(1, 2)
    assert detection_parts(ROBUST, written((*HIT, 1.0)), detections(HIT, FAR))["confidence"] == 0.5


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.35, 0.5, 0.8, 1.0])
def test_robust_gives_the_largest_reward_for_the_true_rate_of_hits_as_confidence(rate):
    def expected(confidence):
        text = written((*HIT, confidence))
        hit = detection_parts(ROBUST, text, detections(HIT))["confidence"]
        miss = detection_parts(ROBUST, text, detections(FAR))["confidence"]
        return rate * hit + (1 - rate) * miss

    assert max((hundredth / 100 for hundredth in range(101)), key=expected) == rate


def test_robust_rewards_no_objects_where_the_class_is_absent():
    for answer in ("No Objects", "[]"):
        assert detection_parts(ROBUST, answer, detections()) == {"iou": 1.0, "confidence": 0.0, "format": 1.0}


@pytest.mark.parametrize("answer", [written((*HIT, 0.0)), written((1, 2)), "[oops]", "so few", ""])
def test_robust_rewards_no_box_and_no_unclear_answer_where_the_class_is_absent(answer):
    assert detection_parts(ROBUST, answer, detections())["iou"] == 0.0


def test_robust_gives_no_reward_for_no_objects_where_the_class_is_present():
    assert detection_parts(ROBUST, "No Objects", detections(HIT)) == {"iou": 0.0, "confidence": 0.0, "format": 1.0}


# One prediction may take either target, the other only the first. In x, all 100 high:
# P1 0..100, P2 10..130, A 0..110, B 0..60. IoU: P1-A 100/110, P1-B 60/100, P2-A 100/130, P2-B 50/130.
RIVALS = (0, 0, 100, 100, 0.9), (10, 0, 130, 100, 0.8)
RIVAL_TARGETS = (0, 0, 110, 100), (0, 0, 60, 100)


def test_robust_assigns_boxes_in_the_best_way():
    parts = detection_parts(ROBUST, written(*RIVALS), detections(*RIVAL_TARGETS))
    assert parts["iou"] == pytest.approx((60 / 100 + 100 / 130) / 2)


def test_paper_still_assigns_boxes_greedily():
    parts = detection_parts(PAPER, written(*RIVALS), detections(*RIVAL_TARGETS))
    assert parts["iou"] == pytest.approx(100 / 110 / 2)


def test_robust_can_reward_small_overlaps_with_a_lower_or_rising_threshold():
    answer, target = written((0, 0, 100, 49, 1.0)), detections(HIT)  # IoU 0.49
    assert detection_parts(ROBUST, answer, target)["iou"] == 0.0
    assert detection_parts(RewardRule(iou_threshold=0.0), answer, target)["iou"] == 0.49
    rising = RewardRule(iou_threshold=0.2, iou_threshold_end=0.6)
    assert detection_parts(rising, answer, target, RewardContext(step_frac=0.5))["iou"] == 0.49  # above 0.4
    assert detection_parts(rising, answer, target, RewardContext(step_frac=1.0))["iou"] == 0.0


def test_robust_counts_a_malformed_element_as_a_false_positive_and_rewards_the_rest():
    answer = "[{'Position': [0, 0, 100, 100], 'Confidence': 1}, {'Position': [1, 2]}]"
    assert detection_parts(ROBUST, answer, detections(HIT)) == {"iou": 0.5, "confidence": 0.5, "format": 1.0}
    assert detection_parts(PAPER, answer, detections(HIT))["iou"] == 0.0


@pytest.mark.parametrize("second", [HIT, (0, 0, 100, 99)], ids=["exact", "near"])
def test_robust_counts_a_duplicate_as_a_false_positive(second):
    parts = detection_parts(ROBUST, written((*HIT, 1.0), (*second, 1.0)), detections(HIT))
    assert parts["iou"] == 0.5
    assert parts["confidence"] == 0.0  # (1 - 1) / 2


def test_paper_still_drops_exact_duplicates_for_free():
    assert detection_parts(PAPER, written((*HIT, 1.0), (*HIT, 1.0)), detections(HIT))["iou"] == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "[\n  {'Position': [0, 0, 100, 100],\n   'Confidence': 1.0}\n]",
        '```json\n[{"bbox_2d": [0, 0, 100, 100], "label": "cat"}]\n```',
        "[{'Position': [0.0, 0.0, 100.0, 100.0], 'Confidence': 1}]",
        "[{'Position': [-10, -1, 100, 100], 'Confidence': 1}]",
        "[{'Position': [100, 100, 0, 0], 'Confidence': 1}]",
    ],
)
def test_robust_reads_several_lines_fences_floats_small_negatives_and_swapped_corners(answer):
    assert detection_parts(ROBUST, answer, detections(HIT))["iou"] == 1.0


@pytest.mark.parametrize("row", [(100, 0, 0, 100), (0, 100, 100, 0), (-11, 0, 100, 100), (0, 0, 0, 100)])
def test_robust_gives_no_reward_for_half_swapped_far_outside_or_empty_boxes(row):
    assert detection_parts(ROBUST, written(row), detections(HIT)) == {"iou": 0.0, "confidence": 0.0, "format": 1.0}


@pytest.mark.parametrize("text", [written((*HIT, 1.0)), f"<think>Sure.</think>{written((*HIT, 1.0))}"])
def test_robust_gives_no_reward_for_an_answer_without_its_tags(text):
    reading = read_detection(text, thinking=True, **FRAME)
    assert compute_reward(ROBUST, "detection", reading, detections(HIT)).total == 0.0


def test_robust_without_thinking_takes_a_stray_thought_for_a_format_fault_only():
    reading = read_detection(in_blocks(written((*HIT, 1.0)), thinking=True), thinking=False, **FRAME)
    parts = compute_reward(ROBUST, "detection", reading, detections(HIT)).parts
    assert parts == {"iou": 1.0, "confidence": 1.0, "format": 0.0}


@pytest.mark.parametrize(
    "text",
    [
        "<think></think><answer>cat</answer>",
        "<think>hm</think><answer></answer>",
        "<think> </think><answer> </answer>",
        "<think>hm</think><answer>cat</answer><answer>cat</answer>",
        "<think>hm</think><think>hm</think><answer>cat</answer>",
        "<answer>cat</answer><think>hm</think>",
    ],
)
def test_robust_rewards_format_only_if_each_block_occurs_once_and_is_not_empty(text):
    reading = read_classification(text, thinking=True)
    assert compute_reward(ROBUST, "classification", reading, Label(text="cat")).parts["format"] == 0.0


@pytest.mark.parametrize("answer", ["(0,0),(100,100),(500,500),(600,600)", "[[0, 0, 100, 100], [0, 0, 100, 100]]"])
def test_robust_gives_no_reward_for_two_boxes_in_grounding(answer):
    assert giou_part(ROBUST, answer) == 0.0


def test_robust_orders_an_inverted_box_and_gives_no_reward_for_a_half_inverted_one():
    assert giou_part(ROBUST, "(100,100),(0,0)") == 1.0
    assert giou_part(ROBUST, "(100,0),(0,100)") == 0.0


@pytest.mark.parametrize("answer", ["(0,0),(100,100)", "(0,0),(1,1)", "(0,0),(1000,1000)", "(999,999),(1000,1000)"])
def test_robust_keeps_grounding_in_0_1(answer):
    assert 0.0 <= giou_part(ROBUST, answer) <= 1.0


def test_robust_reads_the_completion_only_so_the_prompts_example_gets_no_reward():
    # The reading is made of the completion's text alone: what the prompt quoted is not in it.
    completion = "The box is as in the example."
    reading = read_detection(completion, thinking=False, **FRAME)
    assert reading.text == completion
    assert compute_reward(ROBUST, "detection", reading, detections(HIT)).total == 0.0


def test_robust_lets_our_own_bugs_crash():
    with pytest.raises(TypeError, match="a Label is no target of detection"):
        compute_reward(ROBUST, "detection", detection("[]"), Label(text="cat"))


@pytest.mark.parametrize(
    "answer",
    [
        written((*HIT, 1.0)) + " " * 33_000,
        "[" * 5 + "0, 0, 100, 100" + "]" * 5,
        "[[0, 0, 100, " + "1" * 5000 + "]]",
        "[[0, 0, 100, 1e999]]",
        "[[0, 0, 100, ١٠٠]]",
        "[[0, 0, 100, Infinity]]",
        "[[0, 0, 100, NaN]]",
    ],
)
def test_robust_gives_no_reward_for_unbounded_text_in_short_time(answer):
    start = time.process_time()
    parts = detection_parts(ROBUST, answer, detections(HIT))
    assert (parts["iou"], parts["confidence"]) == (0.0, 0.0)
    assert time.process_time() - start < 1.0


def test_a_megabyte_is_unreadable_before_it_is_parsed():
    reading = read_grounding(in_blocks("(0,0),(100,100)" * 70_000, thinking=False), thinking=False, **FRAME)
    assert isinstance(reading.answer, Unreadable)
    assert not reading.well_formed
