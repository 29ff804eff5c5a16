"""gIoU and cIoU against values computed manually."""

from __future__ import annotations

import numpy as np
import pytest

from virft.metrics.masks import MaskOverlap, mask_metrics, mask_overlap


def row(*pixels: int) -> np.ndarray:
    return np.array([pixels], dtype=bool)


def test_overlap_counts_pixels() -> None:
    assert mask_overlap(row(1, 1, 0, 0), row(0, 1, 1, 0)) == MaskOverlap(intersection=1, union=3)
    assert mask_overlap(row(0, 0), row(1, 1)) == MaskOverlap(intersection=0, union=2)


def test_ignored_pixels_count_on_neither_side() -> None:
    # of shared pixels 1 and 2 the second is ignored, of the others the one at the end
    found = mask_overlap(row(0, 1, 1, 1, 0, 0), row(0, 1, 1, 0, 1, 1), row(0, 0, 1, 0, 0, 1))
    assert found == MaskOverlap(intersection=1, union=3)


def test_giou_is_a_mean_and_ciou_a_ratio_of_sums() -> None:
    measured = mask_metrics([MaskOverlap(1, 4), MaskOverlap(90, 100), MaskOverlap(0, 16)])
    # (0.25 + 0.9 + 0) / 3; 91 / 120: a large target counts for more
    assert measured.values == {"giou": pytest.approx(1.15 / 3), "ciou": pytest.approx(91 / 120)}
    assert measured.counts == {"num_with_mask": 3}


def test_an_empty_mask_for_an_empty_target_has_iou_1() -> None:
    # 1 and 1/2; only the second has pixels
    assert mask_metrics([MaskOverlap(0, 0), MaskOverlap(1, 2)]).values == {"giou": 0.75, "ciou": 0.5}
    # something in place of nothing is wrong
    assert mask_metrics([MaskOverlap(0, 3)]).values == {"giou": 0.0, "ciou": 0.0}


def test_no_questions_are_zero_with_their_count() -> None:
    measured = mask_metrics([])
    assert (measured.values, measured.counts) == ({"giou": 0.0, "ciou": 0.0}, {"num_with_mask": 0})
