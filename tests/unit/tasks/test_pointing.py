"""Pointing: hits by one-to-one assignment, rewards that no grid and no repetition raises, targets from boxes."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from factories import box, reading, sample
from virft.audit.audit import audit_reward
from virft.data.augmentation import augment_target
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.geometry.points import centre_of, contains, match_points, point_on, point_target, surrounds
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule, compute_reward
from virft.tasks.task import ClassAnnotation
from virft.types import Augmentation, Box, ImageSize, Point, Points, Sample, Unreadable

POINTING = TASKS["pointing"]
SIZE = ImageSize(100, 100)
LEFT, RIGHT = box(0, 0, 20, 20), box(60, 60, 100, 100)
BOTH = point_target([LEFT, RIGHT])


def points(*found: tuple[float, float]) -> Points:
    return Points(items=tuple(Point(*one) for one in found))


def parts(answer: Points, target: Points, preset: str = "robust") -> dict[str, float]:
    report = compute_reward(RewardRule(preset=preset), "pointing", reading(answer), target)  # type: ignore[arg-type]
    return {name: value for name, value in report.parts.items() if name != "format"}


@pytest.mark.parametrize(
    ("answer", "target", "hit", "closeness", "f1"),
    [
        (points((10, 10), (80, 80)), BOTH, 1.0, 1.0, 1.0),
        (points((80, 80), (10, 10)), BOTH, 1.0, 1.0, 1.0),  # in any order
        (points((15, 10), (80, 80)), BOTH, 1.0, 0.75, 1.0),  # half way to the edge: (0.5 + 1) / 2
        (points((20, 20)), BOTH, 0.5, 0.0, 2 / 3),  # a corner is inside
        (points((10, 10), (80, 80), (50, 50)), BOTH, 2 / 3, 2 / 3, 0.8),
        (points((10, 10), (11, 10)), BOTH, 0.5, 0.5, 0.5),  # two points on one object
        (points((50, 50)), BOTH, 0.0, 0.0, 0.0),
        (Points(), BOTH, 0.0, 0.0, 0.0),
        (Points(), Points(), 1.0, 1.0, 1.0),
        (points((10, 10)), Points(), 0.0, 0.0, 0.0),
    ],
)
def test_rewards_and_f1(answer: Points, target: Points, hit: float, closeness: float, f1: float) -> None:
    assert parts(answer, target) == {"hit": pytest.approx(hit), "closeness": pytest.approx(closeness)}
    assert parts(answer, target, "paper") == {"hit": pytest.approx(f1)}
    assert POINTING.score(reading(answer), target) == pytest.approx(f1)


def test_overlapping_objects_are_assigned_so_that_all_are_hit() -> None:
    inner, outer = box(40, 40, 60, 60), box(0, 0, 100, 100)
    # the first point is closest to the centre of both, but only it can point to the inner one
    found = match_points(points((50, 50), (10, 10)), point_target([outer, inner]))
    assert found.objects == (1, 0)
    # of two assignments with as many hits, the one with the larger sum of closeness
    found = match_points(points((55, 50), (50, 50)), point_target([inner, outer]))
    assert found.objects == (1, 0)
    assert found.closeness == (pytest.approx(0.9), 1.0)


def test_one_more_hit_outweighs_every_closeness() -> None:
    # centre points of two objects, or corners of three
    boxes = [box(0, 0, 40, 40), box(40, 0, 80, 40), box(80, 0, 120, 40)]
    answer = points((40, 20), (80, 20), (0, 20))
    assert match_points(answer, point_target(boxes)).num_hits == 3


def test_invalid_elements_count_as_points_and_unreadable_answers_earn_nothing() -> None:
    invalid = POINTING.read(
        "<answer>[[100, 100], [1]]</answer>",
        thinking=False,
        space=BoxSpace.RELATIVE_1000,
        original=SIZE,
        resized=SIZE,
    ).answer
    assert parts(invalid, point_target([LEFT])) == {"hit": 0.5, "closeness": 0.5}  # type: ignore[arg-type]
    report = compute_reward(RewardRule(), "pointing", reading(Unreadable(reason="?"), well_formed=False), BOTH)
    assert report.total == 0.0


def test_a_point_in_a_crowd_region_counts_neither_way() -> None:
    target = point_target([LEFT], crowd=[RIGHT])
    assert parts(points((10, 10), (80, 80)), target) == {"hit": 1.0, "closeness": 1.0}
    assert parts(points((80, 80)), point_target([], crowd=[RIGHT])) == {"hit": 1.0, "closeness": 1.0}
    assert POINTING.measure([(reading(points((10, 10), (80, 80))), target)]).values["precision"] == 1.0
    record = POINTING.target_format.to_record(sample(target, task="pointing", size=(100, 100)))
    assert record == {"objects": [[0, 0, 20, 20]], "crowd": [[60, 60, 100, 100]]}
    assert POINTING.parse_target(record, SIZE, where="x:1").target == target


RING = (0, 0, 40, 0, 40, 40, 0, 40, 0, 30, 30, 30, 30, 10, 0, 10)
"""A bracket that is open on the left: the centre of its box is not on it."""


def test_a_point_must_be_inside_the_outline_if_there_is_one() -> None:
    target = point_target([box(0, 0, 40, 40), RIGHT], outlines=[[RING], []])
    assert parts(points((20, 20)), target)["hit"] == 0.0
    assert parts(points((35, 20)), target)["hit"] == 0.5
    assert parts(points((35, 20), (80, 80)), target)["hit"] == 1.0  # the second object has its box only
    # the target's own points are on their objects, and have full closeness
    assert parts(Points(items=target.items), target) == {"hit": 1.0, "closeness": pytest.approx(1.0)}
    record = POINTING.target_format.to_record(sample(target, task="pointing", size=(100, 100)))
    assert record["outlines"] == [[list(RING)], []]
    assert POINTING.parse_target(record, SIZE, where="x:1").target == target
    with pytest.raises(DataError, match="x:1: 1 outlines of 2 objects; expected a list for each, or none at all"):
        POINTING.parse_target(record | {"outlines": [[list(RING)]]}, SIZE, where="x:1")
    elsewhere = {"objects": [[60, 60, 90, 90]], "outlines": [[[0, 0, 9, 0, 9, 9]]]}
    with pytest.raises(
        DataError, match=r"x:1: the outlines of object \[60.0, 60.0, 90.0, 90.0\] are outside of its box"
    ):
        POINTING.parse_target(elsewhere, SIZE, where="x:1")
    flip = Augmentation(crop=(0, 0, 100, 100), horizontal_flip=True)
    moved = augment_target(flip, "pointing", target, SIZE)
    assert isinstance(moved, Points)
    assert parts(points((65, 20), (20, 80)), moved)["hit"] == 1.0
    assert parts(Points(items=moved.items), moved)["closeness"] == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(1, 99), st.floats(1, 99)), min_size=3, max_size=8, unique=True))
def test_the_point_of_an_outline_is_on_it(corners: list[tuple[float, float]]) -> None:
    outline = tuple(value for corner in corners for value in corner)
    xs, ys = zip(*corners, strict=True)
    assume(max(xs) - min(xs) > 1 and max(ys) - min(ys) > 1)
    around = box(min(xs), min(ys), max(xs), max(ys))
    found = point_on(around, [outline])
    assert contains(around, found)
    if found != centre_of(around):
        assert surrounds(outline, found)


_UNIT = st.integers(0, 20)


@st.composite
def _boxes(draw: st.DrawFn) -> Box:
    x, y = draw(_UNIT), draw(_UNIT)
    return box(5 * x, 5 * y, 5 * x + 5 * draw(st.integers(1, 8)), 5 * y + 5 * draw(st.integers(1, 8)))


@given(st.lists(_boxes(), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_centre_of_every_object_is_the_best_answer_and_repetition_never_helps(
    boxes: list[Box], rng: random.Random
) -> None:
    target = point_target(boxes)
    answer = Points(items=tuple(rng.sample(target.items, rng.randint(0, len(boxes)))))
    best, some = parts(Points(items=target.items), target), parts(answer, target)
    assert best == {"hit": 1.0, "closeness": pytest.approx(1.0)}
    repeated = Points(items=(*answer.items, *target.items[:1] * (len(boxes) + 1)))
    assert parts(repeated, target)["hit"] < 1.0
    assert all(some[name] <= best[name] + 1e-12 for name in some)
    # a matching is one-to-one, and each of its points is inside its object
    found = match_points(answer, target)
    taken = [one for one in found.objects if one is not None]
    assert len(set(taken)) == len(taken) == len(answer.items)
    assert all(contains(boxes[one], answer.items[row]) for row, one in enumerate(found.objects) if one is not None)


def test_neither_a_grid_nor_many_points_on_one_object_earn_much() -> None:
    grid = points(*((x, y) for x in range(5, 100, 10) for y in range(5, 100, 10)))
    assert parts(grid, BOTH)["hit"] == pytest.approx(2 / 100)
    on_one = points(*((60 + i, 80) for i in range(20)))
    assert parts(on_one, BOTH)["hit"] == pytest.approx(1 / 20)


def test_metrics() -> None:
    pairs = [
        (reading(points((10, 10), (50, 50))), BOTH),  # one hit of two points
        (reading(Points()), BOTH),
        (reading(points((1, 1), (2, 2), (3, 3))), Points()),
        (reading(Points()), Points()),
        (reading(Unreadable(reason="?")), BOTH),
    ]
    measured = POINTING.measure(pairs)
    assert measured.values["precision"] == pytest.approx(1 / 5)
    assert measured.values["recall"] == pytest.approx(1 / 6)
    assert measured.values["f1"] == pytest.approx(2 / 11)
    assert measured.values["count_error"] == pytest.approx((0 + 2 + 3 + 0 + 2) / 5)
    assert measured.values["false_positive_rate"] == 0.5
    assert measured.values["no_objects_frac"] == pytest.approx(2 / 5)
    assert measured.counts["num_hits"] == 1


def test_targets_come_from_complete_labels() -> None:
    assert POINTING.from_annotation is not None
    found = POINTING.from_annotation(ClassAnnotation(boxes=(LEFT,), crowd=(RIGHT,)))
    assert found is not None
    assert found.target == Points(items=(Point(10, 10),), objects=(LEFT,), crowd=(RIGHT,))
    assert POINTING.from_annotation(ClassAnnotation(boxes=())) == (POINTING.absent, {})
    assert POINTING.from_annotation(ClassAnnotation(boxes=(LEFT,), is_exhaustive=False)) is None


def test_a_target_that_is_not_boxes_is_an_error() -> None:
    with pytest.raises(DataError, match=r"x:1: box \[1, 2\] is not four numbers"):
        POINTING.parse_target({"objects": [[1, 2]]}, SIZE, where="x:1")
    with pytest.raises(DataError, match=r"x:1: target.objects is 3; expected a list"):
        POINTING.parse_target({"objects": 3}, SIZE, where="x:1")


def test_augmentation_moves_objects_and_points() -> None:
    flip = Augmentation(crop=(0, 0, 100, 100), horizontal_flip=True)
    moved = augment_target(flip, "pointing", point_target([LEFT], crowd=[RIGHT]), SIZE)
    assert moved == point_target([box(80, 0, 100, 20)], crowd=[box(0, 60, 40, 100)])
    # an answer that is a target of rejection sampling
    assert augment_target(flip, "pointing", points((10, 30)), SIZE) == points((90, 30))


def test_blind_answers_are_points() -> None:
    train = [
        sample(point_target([box(0, 0, 50, 50)]), task="pointing", size=(100, 100), query="fox"),
        sample(point_target([box(0, 0, 50, 50)]), task="pointing", size=(100, 100), query="fox"),
        sample(point_target([box(75, 75, 95, 95)]), task="pointing", size=(100, 100), query="hen"),
    ]
    at = sample(Points(), task="pointing", size=(200, 200), query="hen")
    found = {name: answer(at) for name, answer in POINTING.blind_answers(train).items()}
    # mean of 250, 250 and 850 thousandths, on an image of twice the size
    assert found["mean point"] == points((90, 90))
    assert found["mean point of the class"] == points((170, 170))
    assert found["centre point"] == points((100, 100))
    assert len(found["3 x 3 grid"].items) == 9  # type: ignore[attr-defined]
    assert found["No Objects"] == Points()
    (best,) = found["best constant point"].items  # type: ignore[attr-defined]
    assert contains(box(0, 0, 100, 100), best)
    assert list(POINTING.blind_answers([])) == ["centre point", "3 x 3 grid", "No Objects"]


def scattered(number: int) -> list[Sample]:
    """Questions with 1 to 4 small objects at random places, and some without any."""
    rng = random.Random(0)
    samples = []
    for i in range(number):
        boxes = []
        for _ in range(rng.choice((0, 1, 2, 3, 4))):
            x, y = rng.randrange(0, 80), rng.randrange(0, 80)
            boxes.append(box(x, y, x + 20, y + 20))
        samples.append(sample(point_target(boxes), task="pointing", id=str(i), size=(100, 100)))
    return samples


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_no_probe_earns_as_much_as_a_half_right_answer(preset: str) -> None:
    grader = Grader(rule=RewardRule(preset=preset), thinking=False, box_space=BoxSpace.RELATIVE_1000)  # type: ignore[arg-type]
    (report,) = audit_reward(scattered(40), grader)
    assert report.margin > 0.1, report.best_probe
    by_name = {one.name: one for one in report.answers}
    assert by_name["correct"].parts["hit"] == 1.0
    for name in ("10 x 10 grid", "one point 20 times", "20 points around one"):
        assert by_name[name].parts["hit"] < 0.05, name
    for name in ("huge numbers", "digits of another script", "No Objects and a point", "whole image as a box"):
        assert by_name[name].parts["hit"] == 0.0, name
