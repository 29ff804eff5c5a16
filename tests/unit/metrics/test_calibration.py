"""Tests of ``virft.metrics.calibration``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_factories import detection, detections, written
from virft.metrics.calibration import calibration_bins, calibration_error, calibration_metrics, confidences_of


def test_the_error_weighs_bins_by_their_predictions():
    # 0.6 to 0.7: mean 0.65, half hit, off by 0.15; from 0.9: mean 0.975, all hit, off by 0.025.
    # (2 * 0.15 + 2 * 0.025) / 4
    error = calibration_error([0.62, 0.68, 0.95, 1.0], [True, False, True, True])
    assert error == pytest.approx(0.0875)


def test_edges_belong_to_the_upper_bin_and_1_to_the_last():
    assert [held.num for held in calibration_bins([0.0, 0.1, 0.5, 1.0], [True] * 4)] == [1, 1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_no_predictions_have_no_error():
    assert calibration_error([], []) == 0.0
    assert calibration_metrics([]).values == {"calibration_error": 0.0, "mean_confidence": 0.0}


def test_unreadable_answers_and_invalid_elements_have_no_confidence():
    hit = detections((0, 0, 100, 100))
    pairs = [
        (detection(written((0, 0, 100, 100, 0.8), (500, 500, 600, 600, 0.3))), hit),
        (detection("[oops]"), hit),
        (detection("oops"), hit),
    ]
    assert confidences_of(pairs) == ([0.8, 0.3], [True, False])
    assert calibration_metrics(pairs).counts == {"num_confidences": 2}


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans())), st.integers(1, 20))
def test_the_error_is_in_0_1_and_bins_hold_every_prediction(predictions, num_bins):
    confidences, hits = [first for first, _ in predictions], [second for _, second in predictions]
    assert 0.0 <= calibration_error(confidences, hits, num_bins) <= 1.0
    assert sum(held.num for held in calibration_bins(confidences, hits, num_bins)) == len(predictions)
