"""Tests of ``virft.geometry.boxes``."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_factories import grid_boxes, near_boxes
from virft.geometry.boxes import (
    BoxSpace,
    assign_by_weight,
    box_of,
    clip_xyxy,
    generalized_iou,
    intersection_over_union,
    iou_matrix,
    match_greedily,
    rotated_bounds,
    size_of,
    undisputed_pairs,
    xywh_to_xyxy,
)
from virft.types import Box, ImageSize

pairs_of_boxes = grid_boxes().flatmap(lambda row: st.tuples(st.just(row), st.one_of(grid_boxes(), near_boxes(row))))


@given(pairs_of_boxes)
def test_iou_is_symmetric_and_in_0_1(pair):
    first, second = pair
    assert intersection_over_union(first, second) == intersection_over_union(second, first)
    assert 0.0 <= intersection_over_union(first, second) <= 1.0


@given(pairs_of_boxes)
def test_generalized_iou_is_symmetric_and_at_most_iou(pair):
    first, second = pair
    assert generalized_iou(first, second) == generalized_iou(second, first)
    assert -1.0 <= generalized_iou(first, second) <= intersection_over_union(first, second)


@given(grid_boxes())
def test_a_box_has_iou_1_with_itself(row):
    assert intersection_over_union(row, row) == generalized_iou(row, row) == 1.0


@given(pairs_of_boxes, st.floats(0, 1), st.floats(0, 1))
def test_iou_does_not_decrease_on_a_straight_line_to_the_target(pair, first, second):
    target, start = pair
    near, far = sorted((first, second), reverse=True)

    def at(way):
        return tuple((1 - way) * a + way * b for a, b in zip(start, target, strict=True))

    assert intersection_over_union(at(near), target) >= intersection_over_union(at(far), target) - 1e-9


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),  # 50 / (100 + 50 - 50)
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),  # 25 / (100 + 100 - 25)
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # they touch
        ((0, 0, 10, 10), (20, 0, 30, 10), 0.0),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),  # no union
        ((0, 0, 1e-200, 1e-200), (0, 0, 1e-200, 1e-200), 0.0),  # its area is too small for a number
    ],
)
def test_iou_of_known_boxes(first, second, expected):
    assert intersection_over_union(first, second) == expected
    assert iou_matrix([first], [second]) == [[expected]]


def test_generalized_iou_of_boxes_that_do_not_touch():
    # hull 300, union 200: 0 - 100 / 300
    assert generalized_iou((0, 0, 10, 10), (20, 0, 30, 10)) == pytest.approx(-1 / 3)
    assert generalized_iou((0, 0, 10, 10), (0, 20, 10, 30)) == pytest.approx(-1 / 3)


def test_boxes_of_less_than_a_pixel_overlap_too():
    assert iou_matrix([(0, 0, 0.5, 0.5)], [(0, 0, 0.5, 0.25), (0, 0, 0.25, 0.5)]) == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("side", "size"), [(31.9, "small"), (32, "medium"), (96, "medium"), (96.1, "large")]
)  # COCO's bounds: 32 x 32 and 96 x 96 pixels
def test_sizes_are_cocos(side, size):
    assert size_of(box_of((0, 0, side, side))) == size


def test_generalized_iou_of_empty_boxes_is_minus_1():
    assert generalized_iou((3, 3, 3, 3), (3, 3, 3, 3)) == -1.0
    # two points apart: a hull without a union
    assert generalized_iou((0, 0, 0, 0), (2, 2, 2, 2)) == -1.0


@given(st.lists(grid_boxes(), max_size=4), st.lists(grid_boxes(), max_size=4))
def test_iou_matrix_holds_the_iou_of_each_pair(rows, columns):
    assert iou_matrix(rows, columns) == [[intersection_over_union(row, column) for column in columns] for row in rows]


def test_iou_matrix_has_a_row_for_each_first_box():
    assert iou_matrix([(0, 0, 2, 2)], [(0, 0, 2, 2), (5, 5, 6, 6)]) == [[1.0, 0.0]]


@given(
    st.integers(1, 4).flatmap(
        lambda columns: st.lists(
            st.lists(st.integers(-2, 9), min_size=columns, max_size=columns), min_size=1, max_size=4
        )
    )
)
def test_assignment_is_as_good_as_an_exhaustive_search(weights):
    pairs = assign_by_weight(weights)
    rows, columns = len(weights), len(weights[0])
    padded = [[max(value, 0) for value in row] + [0] * rows for row in weights]
    best = max(
        sum(padded[row][column] for row, column in enumerate(choice))
        for choice in itertools.permutations(range(columns + rows), rows)
    )
    assert sum(weights[row][column] for row, column in pairs) == best
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(weights[row][column] > 0 for row, column in pairs)


def test_negative_weights_count_as_zero_in_the_assignment():
    # 5 + 0 is more than 1 + 3, although the other weight of 5's column is negative
    assert assign_by_weight([[5, 1], [3, -10]]) == [(0, 0)]


def test_pairs_of_the_same_row_or_column_are_disputed():
    assert undisputed_pairs([[0, 8, 0], [1, 0, 0]]) == [(0, 1), (1, 0)]
    assert undisputed_pairs([[0, 8], [0, 1]]) is None
    assert undisputed_pairs([[1, 8], [0, 0]]) is None


@pytest.mark.parametrize("weights", [[], [[]], [[], []], [[0.0, 0.0]]])
def test_assignment_of_nothing_is_empty(weights):
    assert assign_by_weight(weights) == []


def test_greedy_matching_follows_the_order_and_takes_the_earlier_of_equals():
    assert match_greedily([[0.6, 0.6], [0.9, 0.0]], order=[0, 1], threshold=0.5) == [(0, 0)]
    assert match_greedily([[0.6, 0.6], [0.9, 0.0]], order=[1, 0], threshold=0.5) == [(1, 0), (0, 1)]


def test_clipping_cuts_every_side():
    assert clip_xyxy((-1, -2, 12, 13), 10, 11) == (0, 0, 10, 11)
    assert clip_xyxy((1, 2, 0.25, 0.5), 10, 11) == (1, 2, 0.25, 0.5)
    assert clip_xyxy((12, 13, -3, -4), 10, 11) == (10, 11, 0, 0)


def test_xywh_is_converted_to_corners():
    assert xywh_to_xyxy((1, 2, 3, 4)) == (1, 2, 4, 6)
    assert box_of((1, 2, 4, 6)) == Box(x1=1, y1=2, x2=4, y2=6)


@pytest.mark.parametrize(
    ("space", "extent"),
    [
        (BoxSpace.RELATIVE_1000, (1000, 1000)),
        (BoxSpace.RESIZED_PIXELS, (250, 100)),
        (BoxSpace.ORIGINAL_PIXELS, (500, 200)),
    ],
)
def test_extent_of_a_box_space(space, extent):
    assert space.extent(ImageSize(500, 200), ImageSize(250, 100)) == extent


def test_importing_boxes_does_not_import_scipy():
    code = "import sys, virft.geometry.boxes; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bounds_of_a_rotated_box_contain_its_corners() -> None:
    # A square with sides of 2, turned by 45 degrees, is 2 sqrt(2) wide and high.
    assert rotated_bounds((0, 0, 2, 2), 45) == pytest.approx((1 - 2**0.5, 1 - 2**0.5, 1 + 2**0.5, 1 + 2**0.5))
    assert rotated_bounds((10, 15, 50, 25), -90) == rotated_bounds((10, 15, 50, 25), 270) == (25, 0, 35, 40)
    assert rotated_bounds((1, 2, 3, 4), 180) == rotated_bounds((1, 2, 3, 4), 0) == (1, 2, 3, 4)
