"""Precision, recall and F1 over the confidence threshold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import box, reading
from virft.metrics.box_curves import box_curves
from virft.metrics.calibration import confidences_of
from virft.metrics.detection import detection_metrics
from virft.types import Detection, Detections


def test_each_confidence_is_a_threshold_of_all_boxes_above_it() -> None:
    found = box_curves([0.5, 0.9, 0.5, 0.1], [True, True, False, False], num_targets=2)
    assert found is not None
    assert found.thresholds == (0.9, 0.5, 0.1)
    # 1 of 1 box, 2 of 3, 2 of 4; of 2 targets 1, 2, 2
    assert found.precision == (1.0, 2 / 3, 0.5)
    assert found.recall == (0.5, 1.0, 1.0)
    assert found.f1 == (2 / 3, 4 / 5, 4 / 6)
    assert found.best == 1


def test_elements_that_are_no_boxes_are_false_positives_at_every_threshold() -> None:
    found = box_curves([0.9], [True], num_targets=1, num_invalid=1)
    assert found is not None
    assert (found.precision, found.f1) == ((0.5,), (2 / 3,))


def test_without_targets_or_boxes_there_are_no_curves() -> None:
    assert box_curves([0.5], [False], num_targets=0) is None
    assert box_curves([], [], num_targets=3) is None


boxes = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.5, 0.9])), min_size=1, max_size=5)


@given(boxes, st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_at_the_lowest_threshold_the_values_are_those_of_the_metrics(
    predicted: list[tuple[int, float]], targets: list[int]
) -> None:
    answer = Detections(
        items=tuple(Detection(box=box(10 * x, 0, 10 * x + 9, 9), confidence=sure) for x, sure in predicted)
    )
    target = Detections(items=tuple(Detection(box=box(10 * x, 0, 10 * x + 9, 9)) for x in targets))
    pairs = [(reading(answer), target)]
    found = box_curves(*confidences_of(pairs), num_targets=len(targets))
    values = detection_metrics(pairs).values
    assert found is not None
    assert found.f1[-1] == pytest.approx(values["f1"])
    assert found.precision[-1] == pytest.approx(values["precision"])
    assert found.recall[-1] == pytest.approx(values["recall"])
    assert list(found.recall) == sorted(found.recall)
