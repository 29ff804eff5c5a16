"""Predictions drawn on their image: target boxes green, predicted boxes red."""

from __future__ import annotations

import pytest
from PIL import Image

from factories import box, detections
from virft.geometry.points import point_target
from virft.report.render.images import (
    ANSWER_COLOUR,
    TARGET_COLOUR,
    BeforeAfter,
    before_after_sheet,
    draw_answer,
)
from virft.types import Detections, Point, Points

GREY = Image.new("RGB", (100, 50), (128, 128, 128))


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {image.getpixel((x, y)) for x in range(image.width) for y in range(image.height)}  # type: ignore[misc]


def test_boxes_are_scaled_with_the_image() -> None:
    drawn = draw_answer(GREY, detections((10, 10, 40, 40)), detections((50, 10, 90, 40)), task="detection", side=200)
    assert drawn.size == (200, 100)
    # twice as large: left edges at 20 and 100
    assert drawn.getpixel((20, 50)) == TARGET_COLOUR
    assert drawn.getpixel((100, 50)) == ANSWER_COLOUR
    assert drawn.getpixel((60, 50)) == (128, 128, 128)


def test_points_are_drawn_as_dots() -> None:
    target, answer = point_target([box(10, 10, 40, 40)]), Points(items=(Point(70, 20),))
    drawn = draw_answer(GREY, target, answer, task="pointing", side=200)
    assert drawn.getpixel((20, 50)) == TARGET_COLOUR
    # twice as large, with a radius of 4
    grey = (128, 128, 128)
    assert [drawn.getpixel((x, 40)) for x in (134, 140, 146)] == [grey, ANSWER_COLOUR, grey]


def test_an_answer_without_boxes_is_written_as_a_caption() -> None:
    drawn = draw_answer(GREY, detections((10, 10, 40, 20)), Detections(), task="detection", side=200)
    assert ANSWER_COLOUR not in colours(drawn)
    assert drawn.getpixel((199, 99)) == (30, 30, 30)


def test_without_ground_truth_only_the_prediction_is_drawn() -> None:
    seen = colours(draw_answer(GREY, None, detections((50, 10, 90, 40)), task="detection", side=200))
    assert ANSWER_COLOUR in seen
    assert TARGET_COLOUR not in seen


def test_the_input_image_is_not_modified() -> None:
    before = GREY.tobytes()
    draw_answer(GREY, detections((1, 1, 9, 9)), Detections(), task="detection")
    assert GREY.tobytes() == before


@pytest.mark.parametrize(("rows", "lines"), [(0, 0), (1, 1), (2, 1), (5, 3)])
def test_a_sheet_has_two_samples_per_line(rows: int, lines: int) -> None:
    row = BeforeAfter(
        image=GREY,
        task="detection",
        question="fox",
        target=detections((1, 1, 9, 9)),
        before=Detections(),
        after=detections((2, 2, 9, 9)),
    )
    sheet = before_after_sheet([row] * rows, side=100)
    # two samples of two images of 100 with margins of 8; a line is image, caption of 16 and two margins
    assert sheet.size == (2 * (200 + 24), lines * (100 + 16 + 16) + 24)
    assert (TARGET_COLOUR in colours(sheet)) is (rows > 0)
