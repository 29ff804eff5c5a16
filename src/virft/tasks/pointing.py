"""Pointing: one point on every object of one named class, or "No Objects"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Any

from virft.geometry.boxes import BoxSpace
from virft.geometry.points import centre_of, is_hit, match_points, point_target
from virft.metrics.measurement import Measurement
from virft.metrics.pointing import pointing_f1, pointing_metrics
from virft.rewards.options import RewardOptions
from virft.rewards.pointing import pointing_rewards
from virft.tasks.box_answers import (
    BOX_SCHEMA,
    OUTLINES_SCHEMA,
    count_boxes,
    describe_list,
    format_box,
    format_corners,
    grid,
    list_lines,
    outlines_to_record,
    parse_outlines,
    relative_box,
    size_counts,
    usable_outlines,
    use_full_width_digits,
)
from virft.tasks.task import (
    AT_MOST_1_FRAC,
    CORRECT,
    HALF_RIGHT,
    TRUNCATED_FRAC,
    UNREADABLE_FRAC,
    WELL_FORMED_FRAC,
    BlindAnswer,
    BlindAnswers,
    ClassAnnotation,
    Descriptions,
    MarkedBox,
    Metric,
    ParsedTarget,
    Probes,
    TargetFormat,
    Task,
    TaskBoxes,
    TaskReward,
    constant_probes,
    fit_blind,
)
from virft.text.answers import read_detection
from virft.text.points import read_points, render_points
from virft.text.prompts import PromptTexts
from virft.text.records import list_of, parse_box
from virft.types import (
    Answer,
    Box,
    Detection,
    Detections,
    ImageSize,
    JoinedPrediction,
    Point,
    Points,
    Polygon,
    Reading,
    RewardContext,
    Sample,
    Target,
)

RelativePoint = tuple[float, float]
"""x and y, relative to 1000 of the image's width and height."""

# --- data ---

_BOXES = {"type": "array", "items": BOX_SCHEMA}


def _to_record(sample: Sample) -> dict[str, Any]:
    target = _target_of(sample)
    record: dict[str, Any] = {"objects": [list(box.xyxy) for box in target.objects]}
    if target.outlines:
        record["outlines"] = outlines_to_record(target.outlines)
    if target.crowd:
        record["crowd"] = [list(box.xyxy) for box in target.crowd]
    return record


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    def boxes(key: str) -> list[Box]:
        return [parse_box(box, size, where=where) for box in list_of(record.get(key, []), f"target.{key}", where=where)]

    objects = boxes("objects")
    outlines = parse_outlines(record, objects, size, where=where)
    return ParsedTarget(point_target(objects, outlines=outlines, crowd=boxes("crowd")))


def _from_annotation(found: ClassAnnotation) -> ParsedTarget | None:
    """The boxes and outlines; None if some objects are not labelled: a point to one of them would count as wrong."""
    if not found.is_exhaustive:
        return None
    outlines = usable_outlines(found.boxes, found.outlines)
    return ParsedTarget(point_target(found.boxes, outlines=outlines, crowd=found.crowd))


def _read_target(text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
    """Parse a target, which is written as boxes: points alone do not say which other points are hits."""
    found = read_detection(text, thinking=thinking, space=space, original=original, resized=resized)
    if not isinstance(found.answer, Detections):
        return found
    target = replace(point_target([item.box for item in found.answer.items]), invalid=found.answer.invalid)
    return replace(found, answer=target)


def _fault(answer: Points) -> str | None:
    return answer.invalid[0].reason if answer.invalid else None


def _target_of(sample: Sample) -> Points:
    assert isinstance(sample.target, Points)
    return sample.target


def _count(target: Points) -> dict[str, int]:
    return {**size_counts(target.objects), "absent": int(not target.objects)}


# --- boxes: those of a target's objects; a point of an answer is a box without extent ---


def _box_at(point: Point) -> Box:
    return Box(x1=point.x, y1=point.y, x2=point.x, y2=point.y)


def _boxes(found: Points) -> tuple[Box, ...]:
    return found.objects or tuple(map(_box_at, found.items))


def _mark(answer: Points, target: Points | None) -> tuple[MarkedBox, ...]:
    found = match_points(answer, Points() if target is None else target)
    return tuple(
        MarkedBox(_box_at(point), is_hit=found.objects[row] is not None, is_ignored=row in found.ignored)
        for row, point in enumerate(answer.items)
    )


def _to_answer(found: Sequence[Detection]) -> Answer:
    return Points(items=tuple(centre_of(item.box) for item in found))


def _move(target: Points, move: Callable[[Box], Box]) -> Points:
    def move_outline(polygon: Polygon) -> Polygon:
        corners = (move(_box_at(Point(*corner))) for corner in zip(polygon[::2], polygon[1::2], strict=True))
        return tuple(value for corner in corners for value in corner.xyxy[:2])

    return replace(
        target,
        items=tuple(centre_of(move(_box_at(point))) for point in target.items),
        objects=tuple(map(move, target.objects)),
        outlines=tuple(tuple(map(move_outline, polygons)) for polygons in target.outlines),
        crowd=tuple(map(move, target.crowd)),
    )


# --- rewards ---


def _robust(reading: Reading, target: Points, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return pointing_rewards(reading, target, context)


def _paper(reading: Reading, target: Points, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return {"hit": pointing_f1(reading.answer, target) if isinstance(reading.answer, Points) else 0.0}


def _format_point(point: Point) -> str:
    return f"[{point.x:.1f}, {point.y:.1f}]"


def _explain(answer: Points, target: Points, context: RewardContext, options: RewardOptions) -> list[str]:
    """Each predicted point with its object, then invalid elements and objects that were not found."""
    matching = match_points(answer, target)
    lines = [f"{answer.num_predicted} predicted, {len(target.objects)} to find, a hit is a point on the object"]
    for row, point in enumerate(answer.items):
        found = matching.objects[row]
        if found is not None:
            outcome = f"object {found + 1}, closeness {matching.closeness[row]:.3f}, hit"
        elif row in matching.ignored:
            outcome = "in a crowd region, neither right nor wrong"
        elif any(is_hit(target, place, point) for place in range(len(target.objects))):
            outcome = "its object is taken, miss"
        else:
            outcome = "no object, miss"
        lines.append(f"{row + 1:>3}  {_format_point(point):<18}  {outcome}")
    lines += [f"invalid: {element.reason}: {element.piece!r}" for element in answer.invalid]
    taken = set(matching.objects)
    lines += [
        f"object {place + 1} {format_box(box)} not found"
        for place, box in enumerate(target.objects)
        if place not in taken
    ]
    if not answer.num_predicted:
        lines.append("the answer says: no objects")
    if answer.num_clipped:
        lines.append(f"{answer.num_clipped} moved to the edge of the image")
    return lines


# --- metrics ---


def _ratios(measured: Measurement) -> dict[str, tuple[float, float]]:
    hits, points, targets, number = (
        measured.counts[name] for name in ("num_hits", "num_points", "num_targets", "num_questions")
    )
    return {
        "precision": (hits, points),
        "recall": (hits, targets),
        "f1": (2 * hits, points + targets),
        "count_error": (measured.values["count_error"] * number, number),
    }


def _measure_dataset(joined: Sequence[JoinedPrediction], source: Mapping[str, Any]) -> Measurement:
    """The F1 of each class."""
    by_class: dict[str, list[tuple[Reading, Points]]] = {}
    for one in joined:
        by_class.setdefault(one.sample.query, []).append((one.reading, _target_of(one.sample)))
    table = {label: pointing_metrics(pairs).values["f1"] for label, pairs in sorted(by_class.items())}
    return Measurement(values={}, counts={}, tables={"f1": table})


_METRICS = (
    Metric(
        name="f1",
        description="2 hits / (points + objects), summed over all questions; a hit is a point on the object",
        in_table=True,
        in_card=True,
        in_comparison=True,
    ),
    Metric(name="precision", description="hits / predicted points", in_table=True, in_card=True),
    Metric(name="recall", description="hits / objects", in_table=True, in_card=True),
    Metric(
        name="count_error",
        description="mean absolute error of the number of points; an unreadable answer counts as max(objects, 1)",
        better=-1,
        in_table=True,
        in_card=True,
    ),
    Metric(
        name="false_positive_rate",
        description="fraction of questions about an absent class with a predicted point",
        better=-1,
        in_table=True,
        in_card=True,
    ),
    UNREADABLE_FRAC,
    AT_MOST_1_FRAC,
    TRUNCATED_FRAC,
    WELL_FORMED_FRAC,
    Metric(name="points_per_question", description="predicted points", better=0),
    Metric(name="no_objects_frac", description="fraction of answers without objects", better=0),
)

# --- reports ---


def _count_points(number: int) -> str:
    return "1 point" if number == 1 else f"{number} points"


def _describe_target(target: Points) -> str:
    boxes = _boxes(target)
    return f"{count_boxes(len(boxes))}: {'; '.join(map(format_corners, boxes))}" if boxes else "no objects"


def _describe_answer(answer: Points) -> str:
    points = [f"{point.x:.0f}, {point.y:.0f}" for point in answer.items]
    return describe_list(_count_points(len(points)), points, answer.invalid)


def _count_answer(answer: Points) -> str:
    if not answer.items and not answer.invalid:
        return "no objects"
    points = [_count_points(len(answer.items))] if answer.items else []
    return ", ".join([*points, *([f"{len(answer.invalid)} invalid"] if answer.invalid else [])])


def _lines(answer: Points, size: ImageSize) -> list[str]:
    points = list(map(_format_point, answer.items))
    return list_lines(_count_points(len(points)), points, answer.invalid, size, kind="point")


def _answer_to_record(answer: Points) -> dict[str, Any]:
    return {
        "points": [[round(point.x, 2), round(point.y, 2)] for point in answer.items],
        "invalid": [{"reason": one.reason, "piece": one.piece} for one in answer.invalid],
    }


# --- audit ---

_CENTRE = (500.0, 500.0)


def _write(points: Sequence[RelativePoint]) -> str:
    return "[" + ", ".join(f"{{'Position': [{x:.0f}, {y:.0f}]}}" for x, y in points) + "]"


def _relative(point: Point, size: ImageSize) -> RelativePoint:
    return 1000 * point.x / size.width, 1000 * point.y / size.height


def _in_pixels(point: RelativePoint, size: ImageSize) -> Point:
    return Point(point[0] * size.width / 1000, point[1] * size.height / 1000)


def _grid(number: int) -> list[RelativePoint]:
    """The centres of the cells of a grid over the image."""
    return [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in grid(number)]


def _mean_point(samples: Sequence[Sample]) -> RelativePoint | None:
    points = [_relative(point, sample.target_size) for sample in samples for point in _target_of(sample).items]
    return (fmean(x for x, _ in points), fmean(y for _, y in points)) if points else None


_STEPS = 20
"""Columns and rows of the grid that the best constant point is chosen from."""


def _best_point(samples: Sequence[Sample]) -> RelativePoint | None:
    """The point, of the centres of a grid, that is inside an object in the most samples; None without objects."""
    places = [1000 * (i + 0.5) / _STEPS for i in range(_STEPS)]
    num_hits: Counter[RelativePoint] = Counter()
    for sample in samples:
        inside: set[RelativePoint] = set()
        for box in _target_of(sample).objects:
            x1, y1, x2, y2 = relative_box(box, sample.target_size)
            columns, rows = ([at for at in places if low <= at <= high] for low, high in ((x1, x2), (y1, y2)))
            inside.update(product(columns, rows))
        num_hits.update(inside)
    # Of equally good points the first in a fixed order, whatever the order of the samples.
    return min(num_hits, key=lambda point: (-num_hits[point], point), default=None)


def _probes(samples: Sequence[Sample]) -> Probes:
    """Constant points, grids of them, and texts that a lenient parser or reward could accept."""
    usual = _best_point(samples) or _CENTRE
    mean = _mean_point(samples) or _CENTRE
    constant: dict[str, Sequence[RelativePoint]] = {
        "centre point": [_CENTRE],
        "mean point of the data": [mean],
        "best constant point": [usual],
        "2 x 2 grid": _grid(2),
        "4 x 4 grid": _grid(4),
        "10 x 10 grid": _grid(10),
        "one point 20 times": [usual] * 20,
        "20 points around one": [(usual[0] + 5 * i, usual[1]) for i in range(-10, 10)],
    }
    texts = {"always No Objects": "No Objects", "always []": "[]"}
    texts |= {name: _write(points) for name, points in constant.items()}
    texts["whole image as a box"] = "[[0, 0, 1000, 1000]]"
    texts["huge numbers"] = "[[1e300, 1e300]]"
    texts["digits of another script"] = use_full_width_digits(_write([usual]))
    texts["No Objects and a point"] = "No Objects " + _write([usual])
    texts["a range of coordinates"] = "[['0-1000', '0-1000']]"
    return constant_probes(_write([usual]), texts)


def _blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    """The same points for every question, or "No Objects"."""

    def always(points: Sequence[RelativePoint]) -> BlindAnswer:
        return lambda sample: Points(items=tuple(_in_pixels(point, sample.target_size) for point in points))

    def fit(
        find: Callable[[Sequence[Sample]], RelativePoint | None],
    ) -> Callable[[Sequence[Sample]], BlindAnswer | None]:
        return lambda some: None if (found := find(some)) is None else always([found])

    return {
        **fit_blind("mean point", samples, fit(_mean_point), by_query=True),
        **fit_blind("best constant point", samples, fit(_best_point)),
        "centre point": always([_CENTRE]),
        "3 x 3 grid": always(_grid(3)),
        "No Objects": lambda sample: Points(),
    }


def _oracle(samples: Sequence[Sample]) -> Iterator[Mapping[str, Target]]:
    """Half right: the centre of every other object of the dataset."""
    number = 0
    for sample in samples:
        items = _target_of(sample).items
        every_other = tuple(point for i, point in enumerate(items, number) if i % 2 == 0)
        number += len(items)
        yield {CORRECT: Points(items=items), HALF_RIGHT: Points(items=every_other)}


POINTING = Task(
    name="pointing",
    target_type=Points,
    query_hint="a class name such as fox",
    prompts=PromptTexts(
        short="Point to every {query}.",
        request="Point to every object of the category '{query}' in this image.",
        schema=(
            "The answer is a list with one entry per object, [{'Position': [x, y]}, ...]: a point on the object, near "
            "its centre, as {coordinates}. If there is no such object, the answer is No Objects."
        ),
    ),
    example="[{'Position': [100, 200]}] or No Objects",
    read=read_points,
    render=render_points,
    read_target=_read_target,
    target_example="[[100, 200, 300, 400]] or No Objects",
    fault_of=_fault,
    target_format=TargetFormat(
        required=frozenset({"objects"}),
        optional=frozenset({"outlines", "crowd"}),
        properties={"objects": _BOXES, "outlines": OUTLINES_SCHEMA, "crowd": _BOXES},
        to_record=_to_record,
        from_record=_from_record,
    ),
    class_of=lambda sample: sample.query,
    count_target=_count,
    absent=Points(),
    from_annotation=_from_annotation,
    uses_outlines=True,
    allows_crop=True,
    allows_flip=True,
    rewards={
        "robust": TaskReward(bounds={"hit": (0.0, 1.0), "closeness": (0.0, 1.0)}, compute=_robust),
        "paper": TaskReward(bounds={"hit": (0.0, 1.0)}, compute=_paper),
    },
    explain=_explain,
    metrics=_METRICS,
    measure_pairs=pointing_metrics,
    score_answer=pointing_f1,
    score_description="F1 of the question",
    ratios=_ratios,
    measure_dataset=_measure_dataset,
    class_tables=("f1",),
    describe_targets=Descriptions(
        full=_describe_target,
        short=lambda target: count_boxes(len(_boxes(target))) if _boxes(target) else "no objects",
        caption=lambda target: count_boxes(len(_boxes(target))) if _boxes(target) else "absent",
    ),
    describe_answers=Descriptions(
        full=_describe_answer,
        short=_count_answer,
        caption=lambda answer: "" if answer.items else "invalid points" if answer.invalid else "no objects",
    ),
    answer_lines=_lines,
    answer_to_record=_answer_to_record,
    boxes=TaskBoxes(
        of_target=_boxes,
        of_answer=_mark,
        to_answer=_to_answer,
        move=_move,
        outlines_of_target=lambda target: target.outlines,
        are_points=True,
    ),
    probes=_probes,
    blind_answers=_blind_answers,
    oracle=_oracle,
)
