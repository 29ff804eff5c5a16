"""Lay out a chart: ticks, SVG paths and readings, so that the template only has to draw them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from virft.report.render.curves import Chart, CurvePoints, Line

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 24
_STEP = "step"
"""Name of the axis that has whole numbers only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A position on an axis and its label."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnLine:
    """One line of a chart as SVG."""

    name: str
    """Label in the legend."""
    tone: int
    """Index of the colour."""
    system: int | None
    """Index of the system that the line belongs to, if any."""
    path: str
    """SVG path of the line, smoothed if the metric fluctuates."""
    faint: str
    """SVG path of the unsmoothed values behind a smoothed line, else empty."""
    dots: tuple[tuple[float, float], ...]
    """Positions of the points, if there are at most 12."""
    summary: str
    """Text in the legend: the first and the last value, unless the line has a text of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnChart:
    """A chart that is ready to draw."""

    chart: Chart
    """The chart's data."""
    x_ticks: tuple[Tick, ...]
    """Ticks of the axis of steps, or of another quantity."""
    y_ticks: tuple[Tick, ...]
    """Ticks of the value axis."""
    lines: tuple[DrawnLine, ...]
    """Lines as SVG."""
    alt_text: str
    """Description for readers who cannot see the chart."""
    readings: str
    """JSON with the values that the script shows under the cursor."""


def draw_chart(chart: Chart) -> DrawnChart:
    """Lay out a chart; the value axis begins and ends at round numbers."""
    steps = [step for line in chart.lines for step in line.points.steps]
    values = [value for line in chart.lines for value in line.points.values]
    x_low, x_high = chart.x_range or (min(steps), max(steps))
    y_ticks = ticks(*(chart.y_range or (min(values), max(values))))
    y_low, y_high = min(y_ticks[0], *values), max(y_ticks[-1], *values)

    def across(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def down(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - y_low) / (y_high - y_low))

    def place(points: CurvePoints) -> list[tuple[float, float]]:
        return [(round(across(s), 1), round(down(v), 1)) for s, v in zip(*points, strict=True)]

    def draw(line: Line) -> DrawnLine:
        clear = line.smooth or line.points
        return DrawnLine(
            name=line.name,
            tone=line.tone,
            system=line.system,
            path=_path(place(clear)),
            faint=_path(place(line.points)) if line.smooth else "",
            dots=tuple(place(line.points)) if len(line.points.steps) <= 12 else (),
            summary=line.summary
            or " → ".join(
                format_number(value, is_fraction=chart.is_fraction) for value in (clear.values[0], clear.values[-1])
            ),
        )

    lines = tuple(draw(line) for line in chart.lines)
    ends = "; ".join(f"{line.name} {line.summary.replace('→', 'to')}" for line in lines)
    return DrawnChart(
        chart=chart,
        x_ticks=tuple(
            Tick(at=round(across(tick), 1), text=f"{tick:g}")
            for tick in ticks(x_low, x_high)
            if x_low <= tick <= x_high and (tick == int(tick) or chart.x_name != _STEP)
        ),
        y_ticks=tuple(
            Tick(at=round(down(tick), 1), text=format_number(tick, is_fraction=chart.is_fraction, of=y_ticks))
            for tick in y_ticks
        ),
        lines=lines,
        alt_text=f"{chart.title}, {chart.x_name} {x_low:g} to {x_high:g}: {ends}",
        readings=_readings(chart, (x_low, x_high)),
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` round numbers: the first is not above ``low``, the last not below ``high``.

    >>> ticks(0.12, 0.97), ticks(0, 0)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0])
    """
    size = max(abs(low), abs(high))
    if size < 1e-30:
        low, high = 0.0, 1.0
    elif high - low < 1e-9 * size:  # a constant: from 0 to twice the value
        low, high = min(0.0, 2 * low), max(0.0, 2 * high)
    power = 10.0 ** math.floor(math.log10((high - low) / (most - 1)))
    for scale in (1, 2, 2.5, 5, 10, 20):
        step = scale * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def format_number(value: float, *, is_fraction: bool = False, of: Sequence[float] = ()) -> str:
    """Format a number for an axis. ``of``: all ticks of the axis, which decide the number of decimals.

    >>> format_number(0.025, is_fraction=True), format_number(1.23456), format_number(0.5, of=[0.0, 0.5, 1.0])
    ('2.5%', '1.23', '0.5')
    """
    if is_fraction:
        text = f"{value:.0%}" if value == 0 or value >= 0.1 or (of and of[-1] - of[0] >= 0.04) else f"{value:.1%}"
    elif of:
        text = f"{value:.4g}"
    else:
        text = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("e-0", "e-").replace("e+0", "e+").replace("-", "−", 1 if value < 0 else 0)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def _readings(chart: Chart, ends: tuple[float, float]) -> str:
    lines = [
        {
            "name": line.name,
            "tone": line.tone,
            "system": line.system,
            "steps": [int(step) if chart.x_name == _STEP else round(step, 3) for step in line.points.steps],
            "values": [format_number(value, is_fraction=chart.is_fraction) for value in line.points.values],
        }
        for line in chart.lines
    ]
    frame = {"left": LEFT, "right": WIDTH - RIGHT, "first": ends[0], "last": ends[1], "x": chart.x_name}
    return json.dumps(frame | {"lines": lines}, separators=(",", ":"))
