"""Suspect labels: completions that agree with one another and contradict the label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from factories import detections, labelled, reading, sample
from virft.errors import DataError
from virft.evaluation.suspects import (
    Kind,
    Suspect,
    kind_of,
    other_classes,
    outlier_score,
    rank_suspects,
    read_suspects,
    with_other_class,
    write_suspects,
)
from virft.tasks.counting import Count
from virft.types import Box, Label, Sample, Unreadable

LEFT, RIGHT = (0, 0, 20, 20), (30, 10, 60, 40)
NEAR = (10, 0, 30, 20)
"""IoU 1/3 with ``LEFT``: the same object for a person, not for F1."""


def fox(number: int, *corners: tuple[float, float, float, float]) -> Sample:
    return replace(sample(detections(*corners), query="fox"), id=f"fox {number}")


def animal(number: int, name: str) -> Sample:
    return replace(sample(Label(text=name), task="classification", query="animal"), id=f"animal {number}")


def test_the_contradicted_label_is_first_and_has_the_expected_score() -> None:
    samples = [fox(number, LEFT) for number in range(3)] + [fox(3, RIGHT)]
    readings = {one.id: [reading(detections(LEFT))] * 4 for one in samples}
    found, *others = rank_suspects(samples, readings)
    assert found.sample.id == "fox 3"
    assert {one.label_score for one in others} == {1.0}
    assert found.kind is Kind.EXTRA
    assert found.consensus == detections(LEFT)
    assert (found.agreement, found.label_score) == (1.0, 0.0)
    # three other samples with score 1, and the mean of all four, 3/4, twice: (3 + 1.5) / 5
    assert found.reliability == pytest.approx(0.9)
    # (agreement 1 + reliability 0.9 of the label's class + 0.9 of the consensus's class) / 3 - 0
    assert found.score == pytest.approx(2.8 / 3)


def test_labels_that_the_completions_confirm_are_not_suspect() -> None:
    samples = [fox(number, LEFT) for number in range(3)]
    ranked = rank_suspects(samples, {one.id: [reading(detections(LEFT))] * 2 for one in samples})
    assert [one.score for one in ranked] == [0.0] * 3
    assert outlier_score(ranked) == 0.1


def test_a_label_is_suspect_from_two_standard_deviations() -> None:
    def scored(score: float) -> Suspect:
        return replace(suspect_fox(LEFT), score=score)

    # mean 0, variance (0.6 ** 2 + 0.2 ** 2 + 0.4 ** 2) / 4 = 0.14
    assert outlier_score([scored(one) for one in (0.6, 0.0, -0.2, -0.4)]) == pytest.approx(2 * 0.14**0.5)
    assert outlier_score([]) == 0.1


def test_completions_that_contradict_one_another_are_weaker_evidence() -> None:
    right = [fox(number, LEFT) for number in range(4)]
    sure, unsure = fox(4, RIGHT), fox(5, RIGHT)
    readings = {one.id: [reading(detections(LEFT))] * 4 for one in [*right, sure]}
    scattered = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (0, 30, 10, 40)]
    readings[unsure.id] = [reading(detections(corners)) for corners in scattered]
    ranked = rank_suspects([*right, unsure, sure], readings)
    assert [one.sample.id for one in ranked[:2]] == ["fox 4", "fox 5"]
    assert ranked[0].agreement == 1.0
    assert ranked[1].agreement == 0.0


def test_a_class_about_which_the_model_is_usually_wrong_is_weaker_evidence() -> None:
    # the model is right about foxes and wolves, and calls every third owl an eagle
    known = [animal(number, "fox") for number in range(6)]
    confused = [animal(number, "owl") for number in range(6, 9)]
    wolf = animal(9, "bear")
    readings = {one.id: [reading(one.target)] * 4 for one in known}
    readings |= {one.id: [reading(Label(text="eagle"))] * 4 for one in confused}
    readings[wolf.id] = [reading(Label(text="fox"))] * 4
    ranked = rank_suspects([*known, *confused, wolf], readings)
    assert ranked[0].sample.id == wolf.id
    assert ranked[0].kind is Kind.CLASS
    assert {one.sample.target for one in ranked[1:4]} == {Label(text="owl")}


def test_unreadable_completions_count_as_disagreement_and_are_no_proposal() -> None:
    samples = [fox(0, RIGHT), fox(1, LEFT)]
    broken = reading(Unreadable(reason="no answer block"))
    readings = {
        "fox 0": [broken, reading(detections(LEFT)), broken, reading(detections(LEFT))],
        "fox 1": [broken] * 4,
    }
    (found,) = rank_suspects(samples, readings)
    assert found.consensus == detections(LEFT)
    # one of the three other completions
    assert found.agreement == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("label", "model", "kind"),
    [
        ([LEFT], [NEAR], Kind.BOX),
        ([LEFT], [RIGHT], Kind.EXTRA),
        ([LEFT, RIGHT], [LEFT], Kind.EXTRA),
        ([LEFT], [LEFT, RIGHT], Kind.MISSING),
        ([], [LEFT], Kind.MISSING),
        ([LEFT], [], Kind.EXTRA),
    ],
)
def test_the_type_of_error_is_recognised(
    label: list[tuple[float, float, float, float]], model: list[tuple[float, float, float, float]], kind: Kind
) -> None:
    assert kind_of(fox(0, *label), detections(*model)) is kind


def test_types_of_tasks_without_a_list_of_boxes() -> None:
    assert kind_of(animal(0, "fox"), Label(text="wolf")) is Kind.CLASS
    one = sample(Box(x1=0, y1=0, x2=9, y2=9), task="grounding")
    assert kind_of(one, Box(x1=20, y1=20, x2=29, y2=29)) is Kind.BOX
    assert kind_of(sample(Count(2), task="counting"), Count(3)) is Kind.ANSWER


def test_another_label_at_the_same_box_is_a_wrong_class() -> None:
    a, b = (0, 0, 20, 20), (30, 0, 50, 20)
    one = sample(labelled(("fox", a), ("hen", b), classes=("fox", "hen")), task="multiclass_detection")
    assert kind_of(one, labelled(("hen", b), ("hen", a))) is Kind.CLASS
    assert kind_of(one, labelled(("Hen", b), ("fox", a))) is Kind.BOX
    assert kind_of(one, labelled(("fox", a))) is Kind.EXTRA


def suspect_fox(*corners: tuple[float, float, float, float]) -> Suspect:
    return Suspect(
        sample=fox(0, *corners),
        score=0.75,
        kind=Kind.EXTRA,
        consensus=detections(),
        agreement=1.0,
        label_score=0.125,
        reliability=0.5,
    )


def test_another_class_at_the_labelled_box_is_proposed() -> None:
    one = suspect_fox(LEFT, RIGHT)
    answers = {"cat": detections((40, 0, 50, 9)), "wolf": detections(LEFT, RIGHT), "dog": detections(LEFT)}
    found = with_other_class(one, answers)
    assert (found.kind, found.query) == (Kind.CLASS, "wolf")
    assert found.reason == "the model names another class: wolf"
    assert with_other_class(one, {"cat": detections()}) == one
    assert with_other_class(one, {}) == one


def test_only_other_classes_are_queried() -> None:
    found = other_classes(fox(0, LEFT), ["fox", "wolf", "dog"])
    assert [one.query for one in found] == ["wolf", "dog"]
    assert len({one.id for one in found} | {"fox 0"}) == 3


def test_suspects_are_written_and_read(tmp_path: Path) -> None:
    first = with_other_class(suspect_fox(LEFT), {"wolf": detections(LEFT)})
    second = Suspect(
        sample=animal(1, "fox"),
        score=0.5,
        kind=Kind.CLASS,
        consensus=Label(text="wolf"),
        agreement=0.5,
        label_score=0.0,
        reliability=0.25,
    )
    write_suspects([first, second], tmp_path / "suspects.jsonl")
    assert read_suspects(tmp_path / "suspects.jsonl") == [first, second]


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"sample_id": "a", "task": "detection"}'])
def test_a_line_that_is_no_suspect_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "suspects.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=r"suspects\.jsonl:2: not a suspect label .*; expected a line of `virft check"):
        read_suspects(path)
    with pytest.raises(DataError, match="none: cannot be read"):
        read_suspects(tmp_path / "none")
