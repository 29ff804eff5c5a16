"""Masks of boxes, polygons and run lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as reference

from factories import box, sample
from virft.geometry.masks import (
    box_to_mask,
    ignored_mask,
    mask_outlines,
    mask_to_rle,
    polygons_to_mask,
    rle_to_mask,
    target_mask,
)
from virft.types import ImageSize, Sample

SIZE = ImageSize(8, 6)
SQUARE = (1.0, 1.0, 4.0, 1.0, 4.0, 5.0, 1.0, 5.0)


def grounded(**mask: object) -> Sample:
    return sample(box(0, 0, 8, 6), task="grounding", size=SIZE, **mask)


def test_a_box_contains_the_pixels_whose_centre_it_contains() -> None:
    mask = box_to_mask(box(1, 1, 4, 5), SIZE)
    assert mask.shape == (6, 8)
    assert mask.sum() == 3 * 4
    assert mask[1:5, 1:4].all()
    # centres 1.5 and 2.5 lie in [1.4, 2.6]; 0.5 and 3.5 do not
    assert box_to_mask(box(1.4, 0, 2.6, 1), SIZE)[0].tolist() == [False, True, True] + [False] * 5
    assert not box_to_mask(box(1.6, 0, 2.4, 6), SIZE).any()
    assert box_to_mask(box(0, 0, 8, 6), SIZE).all()


def test_an_outline_contains_the_pixels_inside() -> None:
    assert (polygons_to_mask([SQUARE], SIZE) == box_to_mask(box(1, 1, 4, 5), SIZE)).all()
    triangle = polygons_to_mask([(0, 0, 8, 0, 0, 6)], SIZE)
    # half of 48 pixels, and those on the slope
    assert triangle.sum() == 24
    assert triangle[0, 0]
    assert not triangle[5, 7]


def test_the_mask_of_several_outlines_is_their_union() -> None:
    other = (3.0, 1.0, 6.0, 1.0, 6.0, 5.0, 3.0, 5.0)
    both = polygons_to_mask([SQUARE, other], SIZE)
    # columns 1 to 5, rows 1 to 4
    assert both.sum() == 5 * 4
    assert both[1:5, 1:6].all()
    # also of separate outlines
    assert polygons_to_mask([(0, 0, 1, 0, 1, 1, 0, 1), (7, 5, 8, 5, 8, 6, 7, 6)], SIZE).sum() == 2


def test_an_outline_is_clipped_at_the_border() -> None:
    mask = polygons_to_mask([(-3, -3, 3, -3, 3, 3, -3, 3)], SIZE)
    assert mask.sum() == 9
    assert mask[:3, :3].all()
    assert not polygons_to_mask([(9, 1, 12, 1, 12, 5)], SIZE).any()


@pytest.mark.parametrize("polygons", [[], [(2.0, 2.0, 2.0, 2.0, 2.0, 2.0)]])
def test_the_mask_of_nothing_is_empty(polygons: list[tuple[float, ...]]) -> None:
    mask = polygons_to_mask(polygons, SIZE)
    assert mask.shape == (6, 8)
    assert not mask.any()


def test_run_lengths_go_down_the_columns() -> None:
    # column 0: two outside; then rows 2 to 5 of column 0 and row 0 of column 1
    mask = rle_to_mask([2, 5, 41], SIZE)
    assert np.argwhere(mask).tolist() == [[0, 1], [2, 0], [3, 0], [4, 0], [5, 0]]
    compressed = reference.frPyObjects({"size": [6, 8], "counts": [2, 5, 41]}, 6, 8)["counts"].decode()
    assert mask_to_rle(mask) == compressed
    assert (rle_to_mask(compressed, SIZE) == mask).all()


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_encoding_and_decoding_equal_pycocotools(mask: np.ndarray) -> None:
    height, width = mask.shape
    counts = mask_to_rle(mask)
    assert counts == reference.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
    assert (rle_to_mask(counts, ImageSize(width, height)) == mask).all()


@pytest.mark.parametrize(
    "counts",
    [
        [5, 3],
        [5, 3, 41],
        [50, -2],
        [5.0, 43],
        [True, 47],
        [],
        "",
        "garbage",
        "53",
        "53X2",
        "\0",
        "é",
        "oooooooooooooo0",
    ],
)
def test_run_lengths_of_another_size_are_refused(counts: object) -> None:
    with pytest.raises(ValueError, match=r"run lengths .* are not a mask of 8x6 pixels"):
        rle_to_mask(counts, SIZE)


def test_the_mask_of_a_target_is_the_union_of_outlines_and_run_lengths() -> None:
    assert target_mask(grounded()) is None
    assert target_mask(grounded(polygons=(SQUARE,))).sum() == 12
    last_column = mask_to_rle(box_to_mask(box(7, 0, 8, 6), SIZE))
    assert target_mask(grounded(rle=last_column)).sum() == 6
    assert target_mask(grounded(polygons=(SQUARE,), rle=last_column)).sum() == 18


def test_of_overlapping_target_and_ignored_outlines_the_smaller_decides() -> None:
    assert ignored_mask(grounded(polygons=(SQUARE,))) is None
    whole, corner = (0.0, 0.0, 8.0, 0.0, 8.0, 6.0, 0.0, 6.0), (0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0)
    # all but the 12 pixels of the target
    around = ignored_mask(grounded(polygons=(SQUARE,), ignored=(whole,)))
    assert around.sum() == 48 - 12
    assert not around[1:5, 1:4].any()
    # a corner of 4 pixels, one of which the target has too
    inside = ignored_mask(grounded(polygons=(SQUARE,), ignored=(corner,)))
    assert inside.sum() == 4
    by_rle = grounded(rle=mask_to_rle(box_to_mask(box(1, 1, 4, 5), SIZE)), ignored=(whole,))
    assert (ignored_mask(by_rle) == around).all()


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)))
def test_outlines_enclose_exactly_the_pixels_of_the_mask(mask: np.ndarray) -> None:
    # Winding number of the pixel centres: edges that go down count 1 to their left, edges that go up -1.
    winding = np.zeros(mask.shape, dtype=int)
    for outline in mask_outlines(mask):
        corners = list(zip(outline[::2], outline[1::2], strict=True))
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
            assert (x1 == x2) != (y1 == y2), "along the edges of pixels"
            if x1 == x2:
                winding[int(min(y1, y2)) : int(max(y1, y2)), : int(x1)] += 1 if y2 > y1 else -1
    assert (winding == mask).all()


def test_a_hole_has_an_outline_of_its_own() -> None:
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    assert mask_outlines(ring) == [(0, 0, 3, 0, 3, 3, 0, 3), (1, 1, 1, 2, 2, 2, 2, 1)]
