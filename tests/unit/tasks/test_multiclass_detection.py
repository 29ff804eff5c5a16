"""Multiclass detection: boxes are read with their labels, and rewarded for the class of the question that they name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import box, labelled, reading, sample
from virft.audit.audit import audit_reward
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.rewards.options import Preset
from virft.tasks import TASKS
from virft.tasks.explain import explain_reward
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule, compute_reward
from virft.tasks.task import ClassAnnotation
from virft.types import Detection, ImageSize, LabelledDetections, Sample, Unreadable

TASK = TASKS["multiclass_detection"]
SIZE = ImageSize(64, 48)
FRAME: dict[str, Any] = {"space": BoxSpace.ORIGINAL_PIXELS, "original": SIZE, "resized": SIZE}
A, B, C = (0, 0, 20, 20), (30, 0, 50, 20), (0, 25, 20, 45)
CLASSES = ("cat", "dog", "red deer")
TARGET = labelled(("cat", A), ("dog", B), ("dog", C), classes=CLASSES)


def read(content: str, space: BoxSpace = BoxSpace.ORIGINAL_PIXELS) -> LabelledDetections:
    answer = TASK.read(f"<answer>{content}</answer>", thinking=False, **{**FRAME, "space": space}).answer
    assert isinstance(answer, LabelledDetections)
    return answer


# --- text ---


@pytest.mark.parametrize(
    "content",
    [
        '[{"bbox_2d": [0, 0, 20, 20], "label": "cat"}, {"bbox_2d": [30, 0, 50, 20], "label": "dog"}]',
        '```json\n[\n\t{"bbox_2d": [0, 0, 20, 20], "label": "cat"},\n{"bbox_2d": [30, 0, 50, 20], "label": "dog"}]```',
        "[{'Position': [0, 0, 20, 20], 'Label': 'cat', 'Confidence': 1}, {'Label': 'dog', 'bbox_2d': [30, 0, 50, 20]}]",
        '{"objects": [{"label": "cat", "bbox": [0, 0, 20, 20]}, {"label": "dog", "bbox": [30, 0, 50, 20]}]}',
        "<ref>cat</ref><box>[[0, 0, 20, 20]]</box><ref>dog</ref><box>[[30, 0, 50, 20]]</box>",
    ],
    ids=["Qwen", "Qwen, fenced", "virft", "objects", "InternVL"],
)
def test_boxes_are_read_with_their_labels(content: str) -> None:
    assert [(item.label, item.box) for item in read(content).items] == [("cat", box(*A)), ("dog", box(*B))]
    assert read(content).invalid == ()


@pytest.mark.parametrize("label", ["", ", 'Label': ''", ", 'Label': ' '", ", 'Label': cat", ", 'Label': ['cat']"])
def test_a_box_without_a_label_is_invalid(label: str) -> None:
    answer = read(f"[{{'Position': [0, 0, 20, 20]{label}}}, {{'Position': [30, 0, 50, 20], 'Label': 'dog'}}]")
    assert [item.label for item in answer.items] == ["dog"]
    assert [one.reason for one in answer.invalid] == ["a box without a label"]


def test_the_usual_format_gives_what_the_general_parser_gives() -> None:
    usual = "[{'Position':[0,0,20,20],'Label':'a, [b}','Confidence':0.5},{'Position':[30,0,50,20],'Label':\"c's\"}]"
    general = usual.replace("[{", "[  {", 1).replace("'Confidence':0.5", "'Confidence':0.5,'Other':1")
    boxes = [[(item.box, item.label, item.confidence) for item in read(text).items] for text in (usual, general)]
    assert boxes[0] == boxes[1] == [(box(*A), "a, [b}", 0.5), (box(*B), "c's", 1.0)]


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8).filter(
    lambda name: any(character.isalnum() for character in name) and not set("<>") & set(name)
)


@given(NAMES)
def test_any_class_name_survives_its_rendering(name: str) -> None:
    target = labelled((name, A), classes=(name,))
    text = TASK.render(target, thinking_text=None, **FRAME)
    found = TASK.read(text, thinking=False, **FRAME)
    assert found.well_formed
    assert TASK.score(found, target) == 1.0


# --- data ---


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"classes": [], "labelled_boxes": []}, "target.classes is empty; expected the class names of the question"),
        ({"classes": ["cat", 3], "labelled_boxes": []}, "a class name is 3; expected text that is not empty"),
        (
            {"classes": ["..."], "labelled_boxes": []},
            "class name '...' cannot be a label; expected letters or digits on one line",
        ),
        (
            {"classes": ["a\nb"], "labelled_boxes": []},
            "class name 'a\\nb' cannot be a label; expected letters or digits on one line",
        ),
        (
            {"classes": ["Cat", "cat"], "labelled_boxes": []},
            "target.classes has 'Cat' and 'cat', which are the same label",
        ),
        (
            {"classes": ["cat"], "labelled_boxes": [{"box": [*A], "label": "dog"}]},
            "target.labelled_boxes has the label 'dog'; expected one of target.classes",
        ),
        ({"classes": ["cat"], "labelled_boxes": [{"box": [*A]}]}, "target.labelled_boxes: label is missing"),
        (
            {"classes": ["cat"], "labelled_boxes": [], "areas": [3]},
            "1 areas of 0 boxes; expected one for each, or none",
        ),
        ({"classes": ["cat"], "labelled_boxes": [], "incomplete": ["dog"]}, "target.incomplete has the label 'dog'"),
    ],
)
def test_a_record_that_is_no_target_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        TASK.parse_target(record, SIZE, where="x:1")
    assert str(caught.value).startswith(f"x:1: {message}")


def test_crowds_areas_and_incomplete_classes_survive_the_record() -> None:
    crowd = (Detection(box=box(1, 2, 3, 4), label="dog"),)
    one = sample(replace(TARGET, crowd=crowd, incomplete=("dog",)), task=TASK.name, areas=(1.0, 2.0, 3.0))
    parsed = TASK.parse_target(TASK.target_format.to_record(one), SIZE, where="x:1")
    assert (parsed.target, parsed.fields["areas"]) == (one.target, one.areas)
    assert one.crowd == (box(1, 2, 3, 4),)


def test_a_target_is_made_of_the_labels_of_each_class() -> None:
    assert TASK.from_annotations is not None
    found = TASK.from_annotations(
        {
            "cat": ClassAnnotation(boxes=(box(*A),), areas=(321.0,)),
            "hen": ClassAnnotation(boxes=()),
            "dog": ClassAnnotation(boxes=(box(*B), box(*C)), crowd=(box(1, 2, 3, 4),), is_exhaustive=False),
        }
    )
    assert found.target == LabelledDetections(
        items=TARGET.items,
        classes=("cat", "hen", "dog"),
        crowd=(Detection(box=box(1, 2, 3, 4), label="dog"),),
        incomplete=("dog",),
    )
    # A class without areas of outlines has those of its boxes.
    assert found.fields == {"areas": (321.0, 400, 400), "outlines": ()}


# --- rewards ---


def parts(answer: LabelledDetections, target: LabelledDetections = TARGET, preset: Preset = "robust") -> list[float]:
    report = compute_reward(RewardRule(preset=preset), TASK.name, reading(answer), target)
    return [value for name, value in report.parts.items() if name != "format"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (labelled(("cat", A), ("dog", B), ("dog", C)), [1.0, 1.0, 1.0]),
        (labelled(("CAT", A), ("Dog.", B), ("dog", C)), [1.0, 1.0, 1.0]),  # labels are compared normalised
        # 2 of 3 boxes: cat has F1 1, dog 2 / 3
        (labelled(("cat", A), ("dog", B)), [2 / 3, 2 / 3, (1 + 2 / 3) / 2]),
        # swapped labels: no hit, three junk boxes of confidence 1
        (labelled(("dog", A), ("cat", B), ("cat", C)), [0.0, -1.0, 0.0]),
        # a name that is no class of the question, and an absent class: false positives of classes of their own
        (labelled(("cat", A), ("dog", B), ("cow", C)), [2 / 3, 1 / 3, (1 + 2 / 3 + 0) / 3]),
        (labelled(("cat", A), ("dog", B), ("red deer", C)), [2 / 3, 1 / 3, (1 + 2 / 3 + 0) / 3]),
        # one box with each label
        (labelled(("cat", A), ("dog", A), ("red deer", A)), [1 / 3, -1 / 3, 1 / 3]),
        # a repeated box is a false positive of its class
        (labelled(("cat", A), ("cat", A), ("dog", B), ("dog", C)), [3 / 4, 2 / 4, (2 / 3 + 1) / 2]),
        (labelled(), [0.0, 0.0, 0.0]),
    ],
)
def test_robust_parts(answer: LabelledDetections, expected: list[float]) -> None:
    assert parts(answer) == pytest.approx(expected)


def test_an_empty_target_rewards_an_explicit_empty_answer_alone() -> None:
    empty = labelled(classes=CLASSES)
    assert parts(labelled(), empty) == [1.0, 0.0, 1.0]
    assert parts(labelled(("cat", A), confidence=0.0), empty) == [0.0, 0.0, 0.0]
    assert parts(replace(labelled(), invalid=read("[{'Position': [1, 2, 3, 4]}]").invalid), empty) == [0.0, 0.0, 0.0]
    unreadable = reading(Unreadable(reason="?"))
    assert compute_reward(RewardRule(), TASK.name, unreadable, empty).total == 1.0  # the format of this reading


def test_a_box_in_a_crowd_region_of_its_class_does_not_count() -> None:
    target = replace(TARGET, crowd=(Detection(box=box(30, 25, 60, 45), label="dog"),))
    correct = labelled(("cat", A), ("dog", B), ("dog", C))
    crowded = Detection(box=box(35, 30, 45, 40), label="dog")
    assert parts(replace(correct, items=(*correct.items, crowded)), target) == [1.0, 1.0, 1.0]
    other = replace(crowded, label="cat")
    assert parts(replace(correct, items=(*correct.items, other)), target) == pytest.approx([0.75, 0.5, (2 / 3 + 1) / 2])
    marked = TASK.answer_boxes(replace(correct, items=(*correct.items, crowded, other)), target)
    assert [(one.is_hit, one.is_ignored) for one in marked] == [(True, False)] * 3 + [(False, True), (False, False)]


def test_the_papers_formulas_match_within_a_class() -> None:
    assert parts(labelled(("cat", A), ("cat", B)), preset="paper") == pytest.approx([1 / 3, 1 / 2])
    assert parts(labelled(("cat", A), ("dog", A)), preset="paper") == pytest.approx([1 / 3, 1 / 2])
    assert parts(labelled(), preset="paper") == [0.0, 0.0]


def test_the_reward_is_explained_box_by_box() -> None:
    answer = labelled(("cat", A), ("dog", A), ("cow", B))
    lines = explain_reward(RewardRule(), TASK.name, reading(answer), TARGET).splitlines()
    assert lines[7:] == [
        "3 predicted, 3 to find, of 3 classes, hit from IoU 0.5",
        "  1  [0.0, 0.0, 20.0, 20.0]            cat               confidence 1      target 1, IoU 1.000, hit",
        "  2  [0.0, 0.0, 20.0, 20.0]            dog               confidence 1      "
        "best IoU 0.000 with its class, 1.000 with others, miss",
        "  3  [30.0, 0.0, 50.0, 20.0]           cow               confidence 1      "
        "label is no class of the question, miss",
        "target 2 [30.0, 0.0, 50.0, 20.0] dog not found",
        "target 3 [0.0, 25.0, 20.0, 45.0] dog not found",
    ]
    empty = explain_reward(RewardRule(), TASK.name, reading(labelled()), TARGET)
    assert "the answer says: no objects" in empty


# --- audit and baselines ---


def questions() -> list[Sample]:
    """Twelve images of 64 x 48, each with one to three objects of four classes at varied places."""
    names = ("cat", "dog", "hen", "fox")
    made = []
    for number in range(12):
        items = []
        for i in range(1 + number % 3):
            x, y = (17 * number + 23 * i) % 40, (11 * number + 13 * i) % 26
            items.append((names[(number + i) % 4], (x, y, x + 10 + 3 * (number % 4), y + 8 + 4 * (i + number % 3))))
        made.append(sample(labelled(*items, classes=names), task=TASK.name, id=str(number), query=", ".join(names)))
    return [*made, sample(labelled(classes=names), task=TASK.name, id="none", query=", ".join(names))]


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_no_probe_earns_as_much_as_a_half_right_answer(preset: Preset) -> None:
    grader = Grader(rule=RewardRule(preset=preset), thinking=False, box_space=BoxSpace.RELATIVE_1000)
    (report,) = audit_reward(questions(), grader)
    earned = {one.name: one.reward for one in report.answers}
    if preset == "robust":
        assert report.margin > 0.3, report.best_probe
        assert earned["correct"] == pytest.approx(4.0 - 1 / 13, abs=0.01)  # an empty target has no confidence
        assert earned["mean box of every class, confidence 1"] < earned["half right"]
        for name in ("all names in one label, confidence 0", "a box without a label", "a list of labels"):
            assert earned[name] == 1.0, name  # the format


def test_probes_answer_the_classes_of_their_question() -> None:
    one, other = questions()[0], sample(labelled(("owl", A), classes=("owl",)), task=TASK.name, query="owl")
    probes = TASK.probes([*questions(), other]).answers
    every = probes["mean box of every class, confidence 0.5"]
    found = [[item.label for item in read(every(asked), BoxSpace.RELATIVE_1000).items] for asked in (one, other)]
    assert found == [["cat", "dog", "hen", "fox"], ["owl"]]


def test_blind_answers_are_the_best_constant_boxes() -> None:
    # In 4 of 5 questions the cat is in the same place; dogs are never where another one was.
    dogs = [(0, 0, 9, 9), (40, 0, 50, 9), (0, 30, 9, 40), (30, 20, 60, 45), (20, 20, 30, 30)]
    cats = [(10, 10, 30, 30)] * 4
    train = [
        sample(
            labelled(*([("cat", cats[i])] if i < 4 else []), ("dog", dogs[i]), classes=("cat", "dog", "hen")),
            task=TASK.name,
            id=str(i),
            size=(100, 100),
        )
        for i in range(5)
    ]
    answers = TASK.blind_answers(train)
    found = {name: [item.label for item in answer(train[0]).items] for name, answer in answers.items()}  # type: ignore[attr-defined]
    assert found == {
        "best box of the best classes": ["cat"],
        "best box of every class": ["cat", "dog"],
        "best box of the most frequent class": ["dog"],
        "No Objects": [],
    }
    scores = {
        name: TASK.measure([(reading(answer(one)), one.target) for one in train]).values["f1"]
        for name, answer in answers.items()
    }
    # cats: 4 hits of 5 boxes, 9 targets; with a dog that is in one image: 5 hits of 10 boxes
    assert scores["best box of the best classes"] == pytest.approx(8 / 14)
    assert max(scores.values()) == scores["best box of the best classes"]
    assert list(TASK.blind_answers([])) == ["No Objects"]
