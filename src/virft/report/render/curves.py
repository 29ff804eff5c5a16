"""The logs of runs as charts: which numbers go together, smoothed where they are noisy, thinned where they are many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from virft.report.render.reported import ReportedRun, ReportedSystem
from virft.tasks import TASKS
from virft.tasks.task import UNREADABLE_FRAC

SMOOTHED_SHARE = 0.1
"""A smoothed point comes from this share of the steps around it."""
MOST_POINTS = 500
VALIDATION = "validation_"


class Points(NamedTuple):
    """Steps done, rising, and a finite number at each."""

    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A number of one run. ``tone``: which colour; ``smooth``: of a noisy number, at the same steps.

    ``system``: its place among the systems, if the line belongs to one.
    """

    name: str
    tone: int
    points: Points
    smooth: Points | None = None
    system: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines over steps. ``words``: what the number is; ``is_share``: in [0, 1], shown as percent.

    ``legend``: the lines are not the systems of the page, so the chart must name them.
    """

    title: str
    words: str
    lines: tuple[Line, ...]
    is_share: bool = False
    legend: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartGroup:
    """Charts under one heading; ``more``: those that only some will look at."""

    heading: str
    charts: tuple[Chart, ...]
    more: tuple[Chart, ...] = ()


_WORDS = {
    "reward": "mean over the completions of a step",
    "completion_tokens": "mean length of a completion",
    "answer_tokens": "mean length of an answer that is learnt",
    "num_tokens": "of prompts and completions in a step",
    "unreadable_frac": "completions that hold no answer",
    "truncated_frac": "completions cut by the token limit",
    "spread_frac": "groups whose rewards differ: the others teach nothing",
    "entropy": "of what is sampled, nats a token; near 0, all answers to a question are the same",
    "skipped": "steps that changed nothing, since a number was not finite",
    "loss": "the number that is minimised; of GRPO near 0 whatever happens",
    "kl": "distance from the model that training began with, nats a token",
    "clip_frac": "weight of tokens whose change was clipped",
    "grad_norm": "length of the gradient before clipping",
    "learning_rate": "of AdamW",
    "sampler_gap": "largest difference, in nats, between sampler and policy about a sampled token; more than 1e-4 in "
    "float32 is a bug, unless another engine samples",
    "sampler_gap_mean": "mean difference, in nats, between vLLM and policy about a sampled token",
    "capped_frac": "tokens of vLLM whose importance weight was cut to the cap",
    "validation_score": "mean of F1, accuracy and box mIoU, as many as there are",
}
_ANSWERS = (
    "completion_tokens",
    "answer_tokens",
    "unreadable_frac",
    "truncated_frac",
    "spread_frac",
    "entropy",
)
_UPDATE = (
    "loss",
    "kl",
    "clip_frac",
    "grad_norm",
    "learning_rate",
    "sampler_gap",
    "sampler_gap_mean",
    "capped_frac",
    "num_tokens",
    "skipped",
)


def _rollout_metrics() -> dict[str, str]:
    """What each task measures of sampled answers, with its description."""
    rows = (task.rollout_metrics for task in TASKS.values())
    return {name: text for row in rows if row is not None for name, text in row.descriptions.items()}


def _first_validations() -> list[str]:
    """The validation scores that are charted first."""
    compared = [metric.name for task in TASKS.values() for metric in task.metrics if metric.in_comparison]
    return [VALIDATION + name for name in dict.fromkeys(["score", *compared, UNREADABLE_FRAC.name])]


def chart_groups(systems: Sequence[ReportedSystem]) -> list[ChartGroup]:
    """Every number of every log, most telling first; one that is not known stands under "Other"."""
    runs = [(place, system, run) for place, system in enumerate(systems) for run in system.runs]
    several = len({run.trainer for _, _, run in runs}) > 1
    tables = [(place, _line_name(system, run), _of_run(run, several=several)) for place, system, run in runs]
    names = list(dict.fromkeys(name for _, _, table in tables for name in table))
    validations = [one for one in names if one.startswith(VALIDATION)]
    order = _first_validations()
    first = [one for one in validations if one.partition("@")[0] in order]
    headings = {
        "Reward": [one for one in names if one == "reward" or one.startswith(("reward_", "reward@"))],
        "Validation": sorted(first, key=lambda one: order.index(one.partition("@")[0])) or validations,
        "Answers": [one for one in (*_ANSWERS, *_rollout_metrics()) if one in names],
        "Update": [name for one in _UPDATE for name in names if name.partition(" of ")[0] == one],
    }
    known = {*validations, *(one for members in headings.values() for one in members)}
    headings["Other"] = [one for one in names if one not in known]
    groups = []
    for heading, members in headings.items():
        more = [one for one in validations if one not in members] if heading == "Validation" else []
        charts, rest = (tuple(_chart(name, tables) for name in which) for which in (members, more))
        groups += [ChartGroup(heading=heading, charts=charts, more=rest)] if charts else []
    times = [chart for _, system, run in runs for chart in _time_charts(system, run, alone=len(runs) == 1)]
    return [*groups, ChartGroup(heading="Time", charts=tuple(times))] if times else groups


def smoothed(points: Points) -> Points | None:
    """The mean around each point, near the ends a straight line; None of a number that is not noisy or has few points.

    Noisy: it goes up and down by more than five times its range, all ways added up.

    >>> smoothed(Points(tuple(range(30)), tuple(range(30)))) is None
    True
    >>> smoothed(Points(tuple(range(30)), (0.0, 1.0) * 15)).values[15]  # of 1, 0, 1, 0, 1
    0.6
    """
    steps, values = points
    if len(values) < 20:
        return None
    way = sum(abs(after - before) for before, after in pairwise(values))
    if way <= 5 * (max(values) - min(values)):
        return None
    width = 2 * max(1, round(len(values) * SMOOTHED_SHARE / 2)) + 1
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    inside = [(sums[start + width] - sums[start]) / width for start in range(len(values) - width + 1)]
    half = width // 2
    at_start = [inside[0] + _slope(values[:width]) * away for away in range(-half, 0)]
    at_end = [inside[-1] + _slope(values[-width:]) * away for away in range(1, half + 1)]
    low, high = min(values), max(values)
    return Points(steps, tuple(min(high, max(low, value)) for value in (*at_start, *inside, *at_end)))


def _slope(values: Sequence[float]) -> float:
    """Of the straight line through an odd number of values, in a least-squares sense."""
    places = range(-(len(values) // 2), len(values) // 2 + 1)
    return sum(at * value for at, value in zip(places, values, strict=True)) / sum(at * at for at in places)


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most about so many of the points: of each stretch the lowest and the highest, so that no spike is lost."""
    steps, values = points
    if len(steps) <= most:
        return points
    stretch = math.ceil(2 * len(steps) / most)
    kept: set[int] = {0, len(steps) - 1}
    for start in range(0, len(steps), stretch):
        places = range(start, min(start + stretch, len(steps)))
        kept |= {min(places, key=values.__getitem__), max(places, key=values.__getitem__)}
    order = sorted(kept)
    return Points(tuple(steps[i] for i in order), tuple(values[i] for i in order))


def _of_run(run: ReportedRun, *, several: bool) -> dict[str, Points]:
    """Number -> its points. The losses of several trainers are different things, so each is called by its trainer."""
    return {
        f"loss of {run.trainer}" if name == "loss" and several else name: points
        for name, points in _by_name(run.metrics).items()
    }


def _by_name(records: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """Number -> its points. What is no finite number is left out.

    A record of training stands at the number of steps done. So does one of a validation: that of the untrained model
    comes before the first step's, at 0.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    last_trained = -1
    for record in records:
        step = record["step"]
        trained = any(not name.startswith(VALIDATION) for name in record if name != "step")
        last_trained = step if trained else last_trained
        done = step + 1 if last_trained >= step else step
        for name, value in record.items():
            if name != "step" and is_number(value):
                steps, values = found.setdefault(name, ([], []))
                steps.append(done)
                values.append(float(value))
    return {name: Points(tuple(steps), tuple(values)) for name, (steps, values) in found.items()}


def is_number(value: Any) -> bool:
    """Whether a value of a record can be drawn.

    >>> is_number(3), is_number(True), is_number("3"), is_number(float("nan"))
    (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _chart(name: str, tables: Sequence[tuple[int, str, Mapping[str, Points]]]) -> Chart:
    lines = tuple(
        _line(line_name, table[name], tone=place, system=place) for place, line_name, table in tables if name in table
    )
    return Chart(
        title=_title(name),
        words=(_WORDS | _rollout_metrics()).get(name.partition(" of ")[0], ""),
        lines=lines,
        is_share=_is_share(name, lines),
    )


def _line(name: str, points: Points, *, tone: int, system: int | None = None) -> Line:
    smooth = smoothed(points)
    return Line(
        name=name,
        tone=tone,
        points=thinned(points),
        smooth=thinned(smooth) if smooth is not None else None,
        system=system,
    )


def _time_charts(system: ReportedSystem, run: ReportedRun, *, alone: bool) -> list[Chart]:
    """Seconds of a step by stage."""
    stages = _by_name(run.timings)
    shown = {name: points for name, points in stages.items() if max(points.values) >= 0.001}
    total = sum(sum(points.values) for points in stages.values())
    lines = tuple(
        _line(f"{name} {sum(points.values) / total:.0%}", points, tone=tone)
        for tone, (name, points) in enumerate(shown.items(), start=1)
    )
    if not lines:
        return []
    num_steps = max(len(points.steps) for points in stages.values())
    title = "seconds of a step" if alone else f"seconds of a step, {_line_name(system, run)}"
    return [Chart(title=title, words=f"{total / num_steps:.1f} s a step on average", lines=lines, legend=True)]


def _line_name(system: ReportedSystem, run: ReportedRun) -> str:
    return system.name if len(system.runs) == 1 else f"{system.name} ({run.name})"


def _title(name: str) -> str:
    """A log's name as a person would say it.

    >>> _title("reward_iou"), _title("validation_f1@coins"), _title("spread_frac")
    ('reward: iou', 'f1@coins', 'spread')
    """
    if name.startswith("reward_"):
        return f"reward: {name.removeprefix('reward_').replace('_', ' ')}"
    return name.removeprefix(VALIDATION).removesuffix("_frac").replace("_", " ")


def _is_share(name: str, lines: Sequence[Line]) -> bool:
    return name.endswith("_frac") and all(0 <= value <= 1 for line in lines for value in line.points.values)
