"""Tests of ``virft.metrics.detection``."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_factories import box, detection, detections, scenes, written
from virft.metrics.detection import count_hits, detection_metrics, find_hits
from virft.types import Detections, Reading

HIT = (0, 0, 100, 100)
FAR = (500, 500, 600, 600)
NOTHING = Detections()


def says(answer):
    return Reading(text="", well_formed=True, answer=answer)


def test_means_run_over_ten_ious() -> None:
    # IoU 0.72: a hit at 0.5, 0.55, 0.6, 0.65 and 0.7
    found = Reading(text="", well_formed=True, answer=detections((0, 0, 72, 100)))
    values = detection_metrics([(found, detections((0, 0, 100, 100)))]).values
    assert (values["f1"], values["f1_mean"], values["recall_mean"]) == (1.0, 0.5, 0.5)


def test_every_number_of_a_small_set():
    pairs = [
        (detection(written((*HIT, 0.9), (*HIT, 0.8), (*FAR, 0.1))), detections(HIT)),  # hit, duplicate, false
        (detection(written(HIT)), detections(HIT, FAR)),  # hit, miss
        (detection("who knows"), detections(HIT)),  # unreadable, miss
        (detection("No Objects"), NOTHING),
        (detection(written(HIT)), NOTHING),  # false alarm
        (detection("[oops, [-5, 0, 100, 100]]"), NOTHING),  # false alarm with an invalid and a clipped box
        (detection("[oops]"), NOTHING),  # an invalid element is a false alarm too
        (detection("[]"), detections(HIT)),  # miss
    ]
    measured = detection_metrics(pairs)
    # hits 2; boxes 3 + 1 + 0 + 0 + 1 + 2 + 1 + 0 = 8; targets 1 + 2 + 1 + 1 = 5
    assert measured.values == {
        "precision": 2 / 8,
        "recall": 2 / 5,
        "f1": 4 / 13,
        # the two hits are exact, so they are hits at every IoU
        "precision_mean": 2 / 8,
        "recall_mean": 2 / 5,
        "f1_mean": 4 / 13,
        "false_positive_rate": 3 / 4,
        "boxes_per_question": 8 / 8,
        "duplicates_per_question": 1 / 8,
        "unreadable_frac": 1 / 8,
        "at_most_1_frac": 0,
        "no_objects_frac": 2 / 8,
    }
    assert measured.counts == {
        "num_questions": 8,
        "num_absent": 4,
        "num_targets": 5,
        "num_boxes": 8,
        "num_hits": 2,
        "num_invalid": 2,
        "num_clipped": 1,
        "num_ignored": 0,
        "num_duplicates": 1,
        "num_false_alarms": 3,
        "num_no_objects": 2,
        "num_unreadable": 1,
        "num_at_most_1": 0,
    }


@pytest.mark.parametrize(
    ("pairs", "precision", "recall", "f1"),
    [
        ([], 1.0, 1.0, 1.0),
        ([(detection("No Objects"), NOTHING)], 1.0, 1.0, 1.0),
        ([(detection("No Objects"), detections(HIT))], 0.0, 0.0, 0.0),
        ([(detection(written(HIT)), NOTHING)], 0.0, 0.0, 0.0),
        ([(detection(written(FAR)), detections(HIT))], 0.0, 0.0, 0.0),
    ],
)
def test_empty_cases_are_defined(pairs, precision, recall, f1):
    values = detection_metrics(pairs).values
    assert (values["precision"], values["recall"], values["f1"]) == (precision, recall, f1)


def test_the_surer_box_takes_the_target_and_ties_go_in_text_order():
    assert find_hits(detections((0, 0, 100, 99, 0.5), (*HIT, 0.6)), detections(HIT)).hits == (False, True)
    assert find_hits(detections((0, 0, 100, 99, 0.5), (*HIT, 0.5)), detections(HIT)).hits == (True, False)


def test_a_false_positive_without_a_target_under_it_is_no_duplicate():
    assert find_hits(detections(HIT, FAR, FAR), detections(HIT)).num_duplicates == 0


@given(st.lists(scenes(), max_size=3))
def test_fractions_are_in_0_1_and_counts_agree(scene_list):
    pairs = [(Reading(text="", well_formed=True, answer=answer), target) for answer, target in scene_list]
    measured = detection_metrics(pairs)
    for name in ("precision", "recall", "f1", "false_positive_rate", "unreadable_frac", "no_objects_frac"):
        assert 0.0 <= measured.values[name] <= 1.0
    counts = measured.counts
    assert counts["num_hits"] <= min(counts["num_boxes"], counts["num_targets"])
    assert counts["num_hits"] + counts["num_duplicates"] <= counts["num_boxes"]


HALF = (0, 0, 100, 50)


def test_an_iou_equal_to_the_threshold_is_a_hit():
    assert find_hits(detections(HALF), detections(HIT)).hits == (True,)
    assert find_hits(detections(HALF), detections(HIT), 0.5001).hits == (False,)
    assert find_hits(detections((200, 0, 300, 50)), detections(HIT), 0.0).hits == (False,)  # no overlap at all


@pytest.mark.parametrize("height", [27.24, 31.7, 13.13, 0.3])
def test_rounding_does_not_decide_an_iou_at_the_threshold(height):
    # 4 wide, moved by 1: intersection 3, union 5
    answer, target = detections((101.1, 7.7, 105.1, 7.7 + height)), detections((102.1, 7.7, 106.1, 7.7 + height))
    assert find_hits(answer, target, 0.6).hits == (True,)
    assert count_hits(answer, target) == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def in_crowd(*rows, crowd=(500, 500, 900, 900)):
    return replace(detections(*rows), crowd=(box(*crowd),))


@pytest.mark.parametrize(
    ("row", "is_ignored"),
    [
        ((600, 600, 700, 700), True),
        ((400, 600, 600, 700), True),  # half of it
        ((399, 600, 599, 700), False),
        ((0, 0, 1000, 1000), False),  # holds the region
    ],
)
def test_a_box_that_lies_mostly_in_a_crowd_region_is_neither_right_nor_wrong(row, is_ignored):
    answer, target = detections(HIT, row), in_crowd(HIT)
    assert find_hits(answer, target).ignored == (False, is_ignored)
    measured = detection_metrics([(says(answer), target)])
    assert measured.values["precision"] == (1.0 if is_ignored else 0.5)
    assert measured.values["boxes_per_question"] == 2.0
    assert measured.counts["num_ignored"] == is_ignored


def test_a_crowd_region_makes_no_hit_and_no_false_alarm():
    found = detection_metrics([(says(detections((600, 600, 700, 700))), in_crowd())])
    assert (found.values["false_positive_rate"], found.values["f1"]) == (0.0, 1.0)
    missed = detection_metrics([(says(detections((600, 600, 700, 700))), in_crowd(HIT))])
    assert (missed.values["recall"], missed.values["precision"]) == (0.0, 0.0)


def test_a_target_in_a_crowd_region_is_matched_first():
    row = (600, 600, 700, 700)
    found = find_hits(detections(row, row), in_crowd(row))
    assert (found.hits, found.ignored, found.num_duplicates) == ((True, False), (False, True), 0)


def test_answers_whose_numbers_are_all_at_most_1_are_counted():
    texts = ["[0.1, 0.2, 0.5, 0.9]", "[[1, 2, 30, 40]]", "who knows", "No Objects"]
    measured = detection_metrics([(detection(text), detections(HIT)) for text in texts])
    assert (measured.values["at_most_1_frac"], measured.values["unreadable_frac"]) == (0.25, 0.5)
    assert measured.counts["num_at_most_1"] == 1
