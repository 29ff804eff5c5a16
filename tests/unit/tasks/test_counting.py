"""Counting: numbers are read without guessing, rewarded by relative error, and made from complete labels only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import box, reading, sample
from virft.audit.audit import audit_reward
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.counting import MAX_COUNT, Count, parse_count
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule, compute_reward
from virft.tasks.task import ClassAnnotation
from virft.types import ImageSize, Sample, Unreadable

COUNTING = TASKS["counting"]
SIZE = ImageSize(64, 48)
NO_NUMBER, NOT_WHOLE = "no number", f"not a whole number from 0 to {MAX_COUNT}"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("0", 0),
        ("007", 7),
        ("three", 3),
        ("Twenty.", 20),
        ("zero", 0),
        ("No", 0),
        ("none", 0),
        ("There are no foxes", 0),
        ("**12** foxes", 12),
        ("(5)", 5),
        ("I count exactly one fox!", 1),
        ("twofold", None),
        (str(MAX_COUNT), MAX_COUNT),
    ],
)
def test_one_number_is_read_from_digits_or_a_word(text: str, number: int | None) -> None:
    expected = Unreadable(reason=NO_NUMBER, piece=text) if number is None else Count(number)
    assert parse_count(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("many", NO_NUMBER),
        ("3 or 4", "2 numbers; expected one"),
        ("twenty one", "2 numbers; expected one"),
        ("No, there are 3", "2 numbers; expected one"),
        ("1 2 3", "3 numbers; expected one"),
        ("3-4", NOT_WHOLE),
        ("three–four", NOT_WHOLE),
        ("twenty-one", NOT_WHOLE),
        ("-3", NOT_WHOLE),
        ("2.5", NOT_WHOLE),
        ("1e3", NOT_WHOLE),
        ("1,000", NOT_WHOLE),
        ("1000000", NOT_WHOLE),
        ("3x", NOT_WHOLE),
        ("½", NOT_WHOLE),
        ("３", NOT_WHOLE),
        ("٣", NOT_WHOLE),
    ],
)
def test_a_text_that_leaves_a_choice_is_unreadable(text: str, reason: str) -> None:
    answer = parse_count(text)
    assert isinstance(answer, Unreadable)
    assert answer.reason == reason


@given(st.text())
def test_any_text_is_a_count_or_unreadable(text: str) -> None:
    answer = parse_count(text)
    assert isinstance(answer, Unreadable) or 0 <= answer.number <= MAX_COUNT  # type: ignore[attr-defined]


@given(st.integers(0, MAX_COUNT))
def test_a_rendered_count_is_read_back(number: int) -> None:
    one = sample(Count(number), task="counting")
    text = COUNTING.render_for(one, space=BoxSpace.RELATIVE_1000, resized=SIZE)
    assert text == f"<answer>{number}</answer>"
    read = COUNTING.read_for(text, one, thinking=False, space=BoxSpace.RELATIVE_1000, resized=SIZE)
    assert (read.answer, read.well_formed) == (Count(number), True)


@pytest.mark.parametrize(
    ("answer", "target", "robust", "paper"),
    [
        (4, 4, 1.0, 1.0),
        (3, 4, 0.75, 0.0),  # 1 - 1 / 4
        (5, 4, 0.75, 0.0),
        (9, 4, 0.0, 0.0),
        (0, 0, 1.0, 1.0),
        (1, 0, 0.0, 0.0),  # 1 - 1 / max(0, 1)
        (0, 3, 0.0, 0.0),
        (MAX_COUNT, 3, 0.0, 0.0),
    ],
)
def test_robust_rewards_by_relative_error_and_paper_exact_counts(
    answer: int, target: int, robust: float, paper: float
) -> None:
    for preset, value in (("robust", robust), ("paper", paper)):
        report = compute_reward(RewardRule(preset=preset), "counting", reading(Count(answer)), Count(target))  # type: ignore[arg-type]
        assert report.parts == {"count": value, "format": 1.0}
    unreadable = reading(Unreadable(reason="?"), well_formed=False)
    assert compute_reward(RewardRule(), "counting", unreadable, Count(target)).total == 0.0


def test_metrics_are_accuracy_and_mean_absolute_error() -> None:
    unreadable = reading(Unreadable(reason="?"))
    pairs = [
        (reading(Count(3)), Count(3)),
        (reading(Count(1)), Count(3)),
        (unreadable, Count(5)),
        (unreadable, Count(0)),
    ]
    measured = COUNTING.measure(pairs)
    assert measured.values["accuracy"] == 0.25
    # 0 + 2 + 5 + max(0, 1)
    assert measured.values["mean_absolute_error"] == 2.0
    assert measured.values["unreadable_frac"] == 0.5
    assert measured.tables["accuracy_by_count"] == {"0": 0.0, "3": 0.5, "5": 0.0}
    assert COUNTING.ratios(measured) == {"accuracy": (1.0, 4), "mean_absolute_error": (8.0, 4)}


@pytest.mark.parametrize("value", [-1, 2.0, True, "3", None, MAX_COUNT + 1])
def test_a_target_that_is_no_whole_number_is_an_error(value: object) -> None:
    with pytest.raises(DataError, match=r"x:1: target.count is .*; expected a whole number from 0 to 999999"):
        COUNTING.parse_target({"count": value}, SIZE, where="x:1")


def test_a_count_is_made_from_complete_labels_only() -> None:
    assert COUNTING.from_annotation is not None
    two = (box(0, 0, 9, 9), box(20, 0, 29, 9))
    found = COUNTING.from_annotation(ClassAnnotation(boxes=two))
    assert found is not None
    assert found.target == Count(2)
    assert COUNTING.from_annotation(ClassAnnotation(boxes=())) == (COUNTING.absent, {})
    assert COUNTING.from_annotation(ClassAnnotation(boxes=two, crowd=(box(1, 1, 9, 9),))) is None
    assert COUNTING.from_annotation(ClassAnnotation(boxes=two, is_exhaustive=False)) is None
    assert COUNTING.from_annotation(ClassAnnotation(boxes=two, is_doubtful=True)) is None


def counts(*numbers: int) -> list[Sample]:
    return [sample(Count(number), task="counting", id=str(i)) for i, number in enumerate(numbers)]


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_no_probe_earns_as_much_as_a_half_right_answer(preset: str) -> None:
    grader = Grader(rule=RewardRule(preset=preset), thinking=False, box_space=BoxSpace.RELATIVE_1000)  # type: ignore[arg-type]
    (report,) = audit_reward(counts(0, 1, 1, 2, 3, 5, 8, 13), grader)
    assert report.margin > 0.1, report.best_probe
    by_name = {one.name: one for one in report.answers}
    assert by_name["correct"].reward == 2.0
    # of the counts, 0, 1, 3 and 8 are exact and the others off by one
    exact, close = 4, {"robust": (1 - 1 / 1) + (1 - 1 / 2) + (1 - 1 / 5) + (1 - 1 / 13), "paper": 0.0}[preset]
    assert by_name["half right"].parts["count"] == pytest.approx((exact + close) / 8)
    for name in ("a range", "several numbers", "a huge number", "a negative number", "a fraction", "many"):
        assert by_name[name].parts["count"] == 0.0, name
    assert by_name["commonest count"].metric == 0.25
    assert by_name["always none"].metric == 0.125
