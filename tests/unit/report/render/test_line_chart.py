"""Layout of charts: ticks, paths and readings."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.report.render.curves import Chart, CurvePoints, Line
from virft.report.render.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw_chart, format_number, ticks


def chart(*values: float, is_fraction: bool = False, smooth: CurvePoints | None = None) -> Chart:
    points = CurvePoints(tuple(range(1, len(values) + 1)), values)
    line = Line(name="a", tone=0, points=points, smooth=smooth, system=0)
    return Chart(title="reward", description="", lines=(line,), is_fraction=is_fraction)


def test_a_line_goes_from_corner_to_corner() -> None:
    drawn = draw_chart(chart(0.0, 1.0, 2.0))
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    # the middle of 52 and 350, and of 166 and 8
    assert drawn.lines[0].path == f"M{left} {bottom}L201 87L{right} {top}"
    assert drawn.lines[0].dots == ((left, bottom), (201, 87), (right, top))
    assert [tick.text for tick in drawn.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert [tick.text for tick in drawn.x_ticks] == ["1", "2", "3"]
    assert drawn.alt_text == "reward, step 1 to 3: a 0 to 2"


def test_behind_a_smoothed_line_lies_the_unsmoothed_one() -> None:
    drawn = draw_chart(chart(*range(20), smooth=CurvePoints(tuple(range(1, 21)), (5.0,) * 20)))
    assert drawn.lines[0].faint.count("L") == 19
    assert drawn.lines[0].summary == "5 → 5"
    assert drawn.lines[0].dots == ()


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-6])
def test_one_point_and_a_constant_line_are_inside_the_chart(value: float) -> None:
    for values in ((value,), (value, value)):
        drawn = draw_chart(chart(*values))
        numbers = [float(one) for one in re.findall(r"[\d.]+", drawn.lines[0].path)]
        assert all(0 <= one <= WIDTH for one in numbers)


def test_readings_under_the_cursor_are_the_values_themselves() -> None:
    found = json.loads(draw_chart(chart(0.25, 0.5, is_fraction=True)).readings)
    assert found["lines"] == [{"name": "a", "tone": 0, "system": 0, "steps": [1, 2], "values": ["25%", "50%"]}]
    assert (found["first"], found["last"], found["left"], found["right"]) == (1, 2, LEFT, WIDTH - RIGHT)


def test_an_axis_that_is_not_of_steps_has_fixed_ends_and_fractions() -> None:
    line = Line(name="a", tone=0, points=CurvePoints((0.5, 0.625), (0.25, 0.25)), summary="best 0.25")
    drawn = draw_chart(
        Chart(title="", description="", lines=(line,), x_name="recall", x_range=(0.0, 1.0), y_range=(0.0, 1.0))
    )
    assert (
        [tick.text for tick in drawn.x_ticks]
        == [tick.text for tick in drawn.y_ticks]
        == ["0", "0.25", "0.5", "0.75", "1"]
    )
    # the middle of 52 and 350; a quarter from 166 up to 8
    assert drawn.lines[0].path.startswith("M201 126.5L")
    assert drawn.lines[0].summary == "best 0.25"
    found = json.loads(drawn.readings)
    assert (found["x"], found["lines"][0]["steps"]) == ("recall", [0.5, 0.625])


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_are_few_and_enclose_every_value(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    assert 2 <= len(found) <= 5
    reach = 1e-6 * max(abs(low), abs(high), 1e-24)
    assert found[0] <= low + reach
    assert found[-1] >= high - reach
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (0.00002, "2e-5"), (-0.5, "−0.5"), (-2e-5, "−2e-5"), (1e20, "1e+20")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_percentages_have_a_decimal_where_they_need_one() -> None:
    assert [format_number(value, is_fraction=True) for value in (0.0, 0.004, 0.5)] == ["0%", "0.4%", "50%"]
    assert format_number(0.005, is_fraction=True, of=[0.0, 0.005, 0.01]) == "0.5%"
    assert format_number(0.05, is_fraction=True, of=[0.0, 0.05, 0.1]) == "5%"
