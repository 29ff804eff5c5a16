"""Turn run logs into charts: group metrics, smooth fluctuating ones, thin long ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from virft.metrics.labels import label_of
from virft.report.render.reported import ReportedRun, ReportedSystem
from virft.report.render.throughput import MFU, NO_CHART, TOKENS_PER_S, throughput
from virft.tasks import TASKS
from virft.tasks.task import UNREADABLE_FRAC
from virft.text.records import is_json_number
from virft.training.run import VALIDATION_PREFIX

MAIN = "Reward and validation score"
"""Heading of the charts that show whether a run learns."""
SMOOTHED_FRACTION = 0.1
"""Width of the smoothing window as a fraction of the steps."""
MOST_POINTS = 500


class CurvePoints(NamedTuple):
    """Completed steps, increasing, and a finite value at each."""

    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A metric of one run."""

    name: str
    """Label in the legend."""
    tone: int
    """Index of the colour."""
    points: CurvePoints
    """Values over steps."""
    smooth: CurvePoints | None = None
    """The smoothed curve of a fluctuating metric."""
    system: int | None = None
    """Index of the system that the line belongs to, if any."""
    summary: str = ""
    """Text in the legend; empty: the first and the last value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines over steps, or over another quantity."""

    title: str
    """Name of the metric."""
    description: str
    """Definition of the metric."""
    lines: tuple[Line, ...]
    """One line for each run."""
    is_fraction: bool = False
    """Values are in [0, 1] and shown as percent."""
    x_name: str = "step"
    """Quantity of the horizontal axis."""
    x_range: tuple[float, float] | None = None
    """Ends of the horizontal axis; None: those of the values."""
    y_range: tuple[float, float] | None = None
    """Ends of the vertical axis; None: those of the values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartGroup:
    """Charts under one heading. ``is_main``: shown at first; the other groups are collapsed."""

    heading: str
    charts: tuple[Chart, ...]
    is_main: bool = False


_DESCRIPTIONS = {
    "reward": "mean total reward of the completions of a step",
    "completion_tokens": "mean completion length in tokens",
    "target_tokens": "mean length of a supervised target in tokens",
    "num_tokens": "tokens of prompts and completions in a step",
    "unreadable_frac": "fraction of completions without a parsable answer",
    "at_most_1_frac": "fraction of completions whose box coordinates are all at most 1: fractions of the image",
    "truncated_frac": "fraction of completions cut at the token limit",
    "zoom_frac": "fraction of completions with a zoom call that was answered",
    "nonzero_std_frac": "fraction of groups with a non-zero reward standard deviation; the others have zero advantage",
    "entropy": "sampling entropy, estimated from log-probs, nats per token; near 0 completions of a prompt are equal",
    "common_answer_frac": "fraction of images with the most common answer; near 1 the model ignores the image",
    "common_target_frac": "fraction of images with the most common ground truth, for comparison",
    "skipped": "steps without a weight update, because a value was not finite",
    "loss": "training loss; with GRPO it stays near 0 by construction",
    "kl": "KL divergence from the reference model, nats per token",
    "clip_frac": "fraction of token weight whose probability ratio was clipped",
    "grad_norm": "gradient norm before clipping",
    "demonstration_loss": "cross-entropy of the ground truth in demonstrations or a warm start, nats per token",
    "demonstration_coef": "coefficient of that cross-entropy, mean over the prompts of a step",
    "demonstration_advantage": "mean advantage of the demonstrations in their groups",
    "demonstration_tokens": "tokens of the demonstrations in a step",
    "learning_rate": "AdamW learning rate after the schedule",
    "sampler_gap": "largest difference of sampler and policy log-probs of a sampled token, nats; above 1e-4 in float32 "
    "it is a bug, unless another engine or older weights sample",
    "sampler_gap_mean": "mean difference of sampler and policy log-probs of tokens sampled by vLLM, merged weights or "
    "older weights, nats",
    "capped_frac": "fraction of these tokens whose importance weight was capped",
    "staleness": "steps between the weights that sampled and those that are trained, mean over the groups of a step",
    TOKENS_PER_S: "throughput: tokens of prompts and completions per second of the whole step",
    MFU: "model FLOPs utilization of the update: operations that its rows need per second and peak rate of the devices",
    "validation_score": "mean headline metric, such as F1 or accuracy, of the tasks in the validation set",
}
_COMPLETIONS = (
    "completion_tokens",
    "target_tokens",
    "unreadable_frac",
    "at_most_1_frac",
    "truncated_frac",
    "zoom_frac",
    "nonzero_std_frac",
    "entropy",
    "common_answer_frac",
    "common_target_frac",
)
_UPDATE = (
    "loss",
    "kl",
    "clip_frac",
    "grad_norm",
    "demonstration_loss",
    "demonstration_coef",
    "demonstration_advantage",
    "demonstration_tokens",
    "learning_rate",
    "sampler_gap",
    "sampler_gap_mean",
    "capped_frac",
    "staleness",
    "num_tokens",
    "skipped",
)


def _rollout_metrics() -> dict[str, str]:
    """Map each metric that a task computes from sampled answers to its description."""
    rows = (task.rollout_metrics for task in TASKS.values())
    return {name: text for row in rows if row is not None for name, text in row.descriptions.items()}


_SIDE_PARTS = ("reward_format", "reward_confidence", "reward_overlong")
"""Parts of the reward that can rise without a better answer."""
_LEAST_LOSS = 1e-3
"""A loss that stays below this value is drawn as a flat line: with GRPO it is near 0 by construction."""


def _first_validations() -> list[str]:
    """Return the validation scores whose charts come first, in order."""
    compared = [metric.name for task in TASKS.values() for metric in task.metrics if metric.in_comparison]
    return [VALIDATION_PREFIX + name for name in dict.fromkeys(["score", *compared, UNREADABLE_FRAC.name])]


def chart_groups(systems: Sequence[ReportedSystem]) -> list[ChartGroup]:
    """Chart every metric of every log, the most informative first; an unknown metric goes under "Other"."""
    runs = [(place, system, run) for place, system in enumerate(systems) for run in system.runs]
    several = len({run.trainer for _, _, run in runs}) > 1
    tables = [(place, _line_name(system, run), _of_run(run, several=several)) for place, system, run in runs]
    names = list(dict.fromkeys(name for _, _, table in tables for name in table if name not in NO_CHART))
    # the same for all charts: rewards begin after a warm start, its loss ends with it
    steps = [step for _, _, table in tables for points in table.values() for step in points.steps]
    x_range = (min(steps), max(steps)) if steps else None
    rewards = [one for one in names if one == "reward" or one.startswith(("reward_", "reward@"))]
    validations = _sorted_validations(names)
    scores = [one for one in validations if one == f"{VALIDATION_PREFIX}score"] or validations[:1]
    parts = [one for one in rewards if one.partition("@")[0] not in _SIDE_PARTS]
    # a run in its warm start has no rewards yet
    losses = [] if rewards else [one for one in names if one.partition(" of ")[0] in ("loss", "demonstration_loss")]
    headings = {
        MAIN: [*parts, *losses, *scores],
        "Reward": [one for one in rewards if one not in parts],
        "Validation": [one for one in validations if one not in scores],
        "Completions": [one for one in (*_COMPLETIONS, *_rollout_metrics()) if one in names],
        "Update": [name for one in _UPDATE for name in names if name.partition(" of ")[0] == one],
    }
    headings["Update"] = [one for one in headings["Update"] if one not in losses]
    known = {one for members in headings.values() for one in members}
    headings["Other"] = [one for one in names if one not in known]
    groups = [
        ChartGroup(
            heading=heading, charts=tuple(_chart(name, tables, x_range) for name in members), is_main=heading == MAIN
        )
        for heading, members in headings.items()
        if members
    ]
    rates = [(place, _line_name(system, run), _by_name(throughput(run))) for place, system, run in runs]
    times = [
        *(_chart(name, rates, x_range) for name in (TOKENS_PER_S, MFU) if any(name in table for _, _, table in rates)),
        *(chart for _, system, run in runs for chart in _time_charts(system, run, alone=len(runs) == 1)),
    ]
    return [*groups, ChartGroup(heading="Time", charts=tuple(times))] if times else groups


def _sorted_validations(names: Iterable[str]) -> list[str]:
    """Return the validation metrics, those that ``virft compare`` lists first."""
    order = _first_validations()
    found = [one for one in names if one.startswith(VALIDATION_PREFIX)]
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda one: places.get(one.partition("@")[0], len(order)))


def smoothed(points: CurvePoints) -> CurvePoints | None:
    """Return the moving average, extrapolated linearly at both ends; None if the metric needs no smoothing.

    It needs none if it has fewer than 20 points, or if its total variation is at most five times its range.

    >>> smoothed(CurvePoints(tuple(range(30)), tuple(range(30)))) is None
    True
    >>> smoothed(CurvePoints(tuple(range(30)), (0.0, 1.0) * 15)).values[15]  # mean of 1, 0, 1, 0, 1
    0.6
    """
    steps, values = points
    if len(values) < 20:
        return None
    way = sum(abs(after - before) for before, after in pairwise(values))
    if way <= 5 * (max(values) - min(values)):
        return None
    width = 2 * max(1, round(len(values) * SMOOTHED_FRACTION / 2)) + 1
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    inside = [(sums[start + width] - sums[start]) / width for start in range(len(values) - width + 1)]
    half = width // 2
    at_start = [inside[0] + _slope(values[:width]) * away for away in range(-half, 0)]
    at_end = [inside[-1] + _slope(values[-width:]) * away for away in range(1, half + 1)]
    low, high = min(values), max(values)
    return CurvePoints(steps, tuple(min(high, max(low, value)) for value in (*at_start, *inside, *at_end)))


def _slope(values: Sequence[float]) -> float:
    """Return the least-squares slope of an odd number of equally spaced values."""
    places = range(-(len(values) // 2), len(values) // 2 + 1)
    return sum(at * value for at, value in zip(places, values, strict=True)) / sum(at * at for at in places)


def thinned(points: CurvePoints, most: int = MOST_POINTS) -> CurvePoints:
    """Return about ``most`` points: the minimum and maximum of each stretch, so that no spike is lost."""
    steps, values = points
    if len(steps) <= most:
        return points
    stretch = math.ceil(2 * len(steps) / most)
    selected: set[int] = {0, len(steps) - 1}
    for start in range(0, len(steps), stretch):
        places = range(start, min(start + stretch, len(steps)))
        selected |= {min(places, key=values.__getitem__), max(places, key=values.__getitem__)}
    order = sorted(selected)
    return CurvePoints(tuple(steps[i] for i in order), tuple(values[i] for i in order))


def _of_run(run: ReportedRun, *, several: bool) -> dict[str, CurvePoints]:
    """Map metric to points. Losses of several trainers are different quantities, so their names contain the trainer."""
    return {
        f"loss of {run.trainer}" if name == "loss" and several else name: points
        for name, points in _by_name(run.metrics).items()
    }


def _by_name(records: Iterable[Mapping[str, Any]]) -> dict[str, CurvePoints]:
    """Map metric to points; values that are not finite numbers are skipped.

    The x position is the number of completed steps. The validation of the untrained model is at 0.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    last_trained = -1
    for record in records:
        step = record["step"]
        trained = any(not name.startswith(VALIDATION_PREFIX) for name in record if name != "step")
        last_trained = step if trained else last_trained
        done = step + 1 if last_trained >= step else step
        for name, value in record.items():
            if name != "step" and is_json_number(value) and math.isfinite(value):
                steps, values = found.setdefault(name, ([], []))
                steps.append(done)
                values.append(float(value))
    return {name: CurvePoints(tuple(steps), tuple(values)) for name, (steps, values) in found.items()}


def _chart(
    name: str, tables: Sequence[tuple[int, str, Mapping[str, CurvePoints]]], x_range: tuple[float, float] | None
) -> Chart:
    lines = tuple(
        _line(line_name, table[name], tone=place, system=place) for place, line_name, table in tables if name in table
    )
    return Chart(
        title=_title(name),
        description=(_DESCRIPTIONS | _rollout_metrics()).get(name.partition(" of ")[0], ""),
        lines=lines,
        is_fraction=_is_fraction(name, lines),
        x_range=x_range,
        y_range=_fixed_range(name, [value for line in lines for value in line.points.values]),
    )


def _line(name: str, points: CurvePoints, *, tone: int, system: int | None = None) -> Line:
    smooth = smoothed(points)
    return Line(
        name=name,
        tone=tone,
        points=thinned(points),
        smooth=thinned(smooth) if smooth is not None else None,
        system=system,
    )


def _time_charts(system: ReportedSystem, run: ReportedRun, *, alone: bool) -> list[Chart]:
    """Chart the seconds of a step by stage."""
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
    title = "seconds per step" if alone else f"seconds per step, {_line_name(system, run)}"
    return [
        Chart(
            title=title,
            description=f"{total / num_steps:.1f} s per step on average",
            lines=lines,
            y_range=(0.0, _highest(lines)),
        )
    ]


def _line_name(system: ReportedSystem, run: ReportedRun) -> str:
    return system.name if len(system.runs) == 1 else f"{system.name} ({run.name})"


def _title(name: str) -> str:
    """Format a metric's key as a chart title.

    >>> _title("reward_iou"), _title("validation_f1@coins"), _title("nonzero_std_frac")
    ('reward: IoU', 'validation: F1@coins', 'groups with different rewards')
    """
    for prefix in ("reward_", VALIDATION_PREFIX):
        if name.startswith(prefix):
            return f"{prefix[:-1]}: {label_of(name.removeprefix(prefix))}"
    return label_of(name)


def _fixed_range(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a metric's axis, chosen so that a flat line is drawn flat.

    Fractions, validation scores and parts of the reward get 0 to 1, or -1 to 1; all other axes contain 0.

    >>> _fixed_range("validation_f1", [0.31, 0.32]), _fixed_range("reward_confidence", [-0.1, 0.2])
    ((0.0, 1.0), (-1.0, 1.0))
    >>> _fixed_range("grad_norm", [1.5, 2.5]), _fixed_range("loss", [-1e-9, 1e-9])
    ((0.0, 2.5), (-0.001, 0.001))
    """
    low, high = min(0.0, *values), max(0.0, *values)
    if name.endswith("_frac") or name.startswith(("reward_", VALIDATION_PREFIX)):
        low, high = low if low < -1 else -1.0 if low < 0 else 0.0, max(1.0, high)
    if name.partition(" of ")[0] == "loss" and max(-low, high) < _LEAST_LOSS:
        low, high = -_LEAST_LOSS, _LEAST_LOSS
    return low, high


def _highest(lines: Sequence[Line]) -> float:
    return max(value for line in lines for value in line.points.values)


def _is_fraction(name: str, lines: Sequence[Line]) -> bool:
    return name.endswith(("_frac", MFU)) and all(0 <= value <= 1 for line in lines for value in line.points.values)
