"""Tests of ``virft.metrics.grounding``."""

from __future__ import annotations

import pytest

from answer_factories import box, grounding
from virft.metrics.grounding import grounding_metrics

TARGET = box(0, 0, 100, 100)


def test_an_unreadable_answer_has_iou_0_and_thresholds_are_inclusive():
    texts = ["(0,0),(100,50)", "(0,0),(100,75)", "(0,0),(100,90)", "(500,500),(600,600)", "in the corner"]
    measured = grounding_metrics([(grounding(text), TARGET) for text in texts])
    # IoU 0.5, 0.75, 0.9, 0, 0
    assert measured.values == {
        "box_miou": pytest.approx(0.43),
        "accuracy_at_50": 0.6,
        "accuracy_at_75": 0.4,
        "accuracy_at_90": 0.2,
        "unreadable_frac": 0.2,
        "at_most_1_frac": 0.0,
    }
    assert measured.counts == {"num_questions": 5, "num_unreadable": 1, "num_at_most_1": 0}


def test_no_questions_give_zeros():
    assert set(grounding_metrics([]).values.values()) == {0.0}
