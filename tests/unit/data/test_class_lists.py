"""One question per image lists the classes that it shows, and only absent ones that are known to be absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unit.data.test_detection_questions import BOX, annotated_set
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.detection_questions import QuestionPlan, write_detection_stores
from virft.data.store import Store
from virft.errors import ConfigError, DataError
from virft.recipes.build_options import count_lines
from virft.types import LabelledDetections

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
SHOWN = {"a.png": ("cat", "dog"), "b.png": ("dog",), "c.png": ()}


def build(annotated: AnnotatedSet, folder: Path, **plan: Any) -> dict[str, tuple[tuple[str, ...], list[str | None]]]:
    """Id of each question -> its classes, and the label of each target box."""
    plan_ = QuestionPlan(task="multiclass_detection", **plan)
    write_detection_stores(annotated, folder / "d", plan=plan_, source={}, skipped=Skipped(), overwrite=True)
    found = {}
    for one in Store(folder / "d"):
        assert isinstance(one.target, LabelledDetections)
        assert one.query == ", ".join(one.target.classes)
        found[one.id] = one.target.classes, [item.label for item in one.target.items]
    return found


def test_a_question_lists_every_class(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", SHOWN, classes=CLASSES)
    assert build(images, tmp_path) == {
        "a.png": (CLASSES, ["cat", "dog"]),
        "b.png": (CLASSES, ["dog"]),
        "c.png": (CLASSES, []),
    }
    card = Store(tmp_path / "d").card
    assert card["source"]["num_class_questions"] == 18
    (line,) = count_lines({"d": card})
    assert line.startswith("d: 3 questions on 3 images (1 per image, in place of 6 about one class each)")


def test_a_short_list_has_the_present_classes_and_drawn_absent_ones(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", SHOWN, classes=CLASSES)
    found = build(images, tmp_path, max_classes=3)
    assert [len(classes) for classes, _ in found.values()] == [3, 3, 3]
    assert {"cat", "dog"} < set(found["a.png"][0])
    assert "dog" in found["b.png"][0]
    assert found["a.png"][1] == ["cat", "dog"]
    assert all(list(classes) == sorted(classes) for classes, _ in found.values())
    assert build(images, tmp_path, max_classes=3) == found
    other = build(images, tmp_path, max_classes=3, split=replace(QuestionPlan().split, seed=1))
    assert other != found


def test_a_list_that_is_too_short_drops_present_classes(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", SHOWN, classes=CLASSES)
    ((classes, labels), *_) = build(images, tmp_path, max_classes=1).values()
    assert len(classes) == 1
    assert labels == list(classes)
    assert classes[0] in ("cat", "dog")


def test_protocol_all_lists_every_class_once_in_several_questions(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", SHOWN, classes=CLASSES)
    found = build(images, tmp_path, max_classes=4, every_class=True)
    assert list(found) == ["a.png:1", "a.png:2", "b.png:1", "b.png:2", "c.png:1", "c.png:2"]
    listed = [label for name, (classes, _) in found.items() if name.startswith("a.png") for label in classes]
    assert sorted(listed) == sorted(CLASSES)
    shown = [label for name, (_, labels) in found.items() if name.startswith("a.png") for label in labels]
    assert sorted(map(str, shown)) == ["cat", "dog"]


def test_a_class_that_may_be_present_is_not_listed(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {**SHOWN, "d.png": ("cat",), "e.png": ("cat",)}, classes=CLASSES)
    one = images.images
    changed = {
        **one,
        "a.png": replace(one["a.png"], doubtful=frozenset({"cat", "elk"})),
        # LVIS: only ant is verified to be absent; some dogs are not annotated
        "b.png": replace(one["b.png"], absent=frozenset({"ant"}), incomplete=frozenset({"dog", "bee"})),
        "c.png": replace(one["c.png"], crowd={"bee": (BOX,)}),
        "d.png": replace(one["d.png"], is_doubtful=True),
        "e.png": replace(one["e.png"], absent=frozenset({"fox"})),
    }
    found = build(replace(images, images=changed), tmp_path)
    assert found == {
        "a.png": (("ant", "bee", "dog", "fox"), ["dog"]),
        "b.png": (("ant",), []),
        "c.png": (("ant", "cat", "dog", "elk", "fox"), []),
        "e.png": (("cat", "fox"), ["cat"]),
    }
    assert build(replace(images, images=changed), tmp_path, max_classes=6) == found
    # A test set lists a class with objects that are not annotated, and marks it.
    plan = {"every_class": True}
    assert build(replace(images, images=changed), tmp_path, **plan)["b.png"] == (("ant", "dog"), ["dog"])
    (target,) = (one.target for one in Store(tmp_path / "d") if one.id == "b.png")
    assert isinstance(target, LabelledDetections)
    assert target.incomplete == ("dog",)


def test_few_shots_are_images_of_which_every_class_is_listed(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {f"{i}.png": ("cat", "dog") for i in range(9)}, classes=("cat", "dog"))
    found = build(images, tmp_path, shots=1)
    assert 1 <= len(found) <= 2
    assert all(labels == ["cat", "dog"] for _, labels in found.values())


def test_spellings_of_a_class_are_not_listed_together(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("Cat",), "b.png": ()}, classes=("Cat", "cat", "dog"))
    assert {name: len(classes) for name, (classes, _) in build(images, tmp_path).items()} == {"a.png": 2, "b.png": 2}


def test_a_class_name_that_no_answer_can_name_is_refused(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", SHOWN, classes=("cat", "?"))
    with pytest.raises(DataError, match=r"class name '\?' cannot be a label of --per-image; expected letters"):
        build(images, tmp_path)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"negatives_frac": 0.5}, "--negatives-frac cannot be combined with --per-image"),
        ({"query_map": {}}, "--protocol map cannot be combined with --per-image"),
        ({"max_classes": 0}, "max_classes is 0; expected an integer of at least 1"),
        ({"task": "detection", "max_classes": 3}, "--max-classes-per-question has no effect without --per-image"),
        ({"task": "grounding"}, "--task grounding: cannot be built from boxes; expected detection or counting or "),
    ],
)
def test_settings_without_effect_are_refused(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QuestionPlan(**{"task": "multiclass_detection", **plan})
    assert str(caught.value).startswith(message)
