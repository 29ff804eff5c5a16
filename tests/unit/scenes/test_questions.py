"""Questions about a scene and their ground truth."""

from collections.abc import Callable

import numpy as np
import pytest

from virft.scenes.patches import PlanItem
from virft.scenes.questions import (
    absent_classes,
    classification_question,
    detection_question,
    grounding_questions,
    questions_for,
)
from virft.scenes.render import Scene, render_scene
from virft.types import Box, Detections, Label

MakeScene = Callable[..., Scene]
XYXY = tuple[float, float, float, float]


def expressions(scene: Scene) -> dict[str, XYXY]:
    """Box by expression; no expression is repeated."""
    found = grounding_questions(scene)
    assert len({question.query for question in found}) == len(found)
    return {question.query: question.target.xyxy for question in found if isinstance(question.target, Box)}


def test_detection_boxes_are_sorted_by_x1_then_y1(make_scene: MakeScene) -> None:
    scene = make_scene(
        ("cat", (50, 5, 80, 35)), ("cat", (10, 40, 40, 70)), ("dog", (0, 0, 9, 9)), ("cat", (10, 2, 40, 32))
    )
    question = detection_question(scene, "cat")
    assert (question.task, question.query, question.kind) == ("detection", "cat", "present")
    assert isinstance(question.target, Detections)
    assert [d.box.xyxy for d in question.target.items] == [(10, 2, 40, 32), (10, 40, 40, 70), (50, 5, 80, 35)]


def test_an_absent_class_has_no_objects_as_its_answer(make_scene: MakeScene) -> None:
    question = detection_question(make_scene(("cat", (0, 0, 30, 30))), "drum")
    assert question.target == Detections()
    assert question.kind == "absent"


def test_absent_classes_are_never_in_the_scene(make_scene: MakeScene) -> None:
    scene = make_scene(("cat", (0, 0, 30, 30)), ("drum", (40, 40, 70, 70)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert set(absent_classes(scene, rng, ("cat", "drum", "lion", "pizza"), 2)) == {"lion", "pizza"}
    assert absent_classes(scene, rng, ("cat",), 2) == []


def test_classification_queries_the_group_and_the_answer_is_the_class(make_scene: MakeScene) -> None:
    question = classification_question(make_scene(("tiger", (0, 0, 90, 90)), ("drum", (90, 90, 112, 112))), "tiger")
    assert (question.query, question.target) == ("animal", Label(text="tiger"))


def test_classification_of_two_objects_of_one_group_is_refused(make_scene: MakeScene) -> None:
    with pytest.raises(ValueError, match="of the group animal, expected only one tiger"):
        classification_question(make_scene(("tiger", (0, 0, 90, 90)), ("dog", (90, 90, 112, 112))), "tiger")


def test_a_single_object_is_named_but_not_called_the_only_one(make_scene: MakeScene) -> None:
    assert expressions(make_scene(("cat", (0, 0, 30, 30)))) == {"the cat": (0, 0, 30, 30)}


def test_expressions_for_two_classes_of_different_groups(make_scene: MakeScene) -> None:
    scene = make_scene(("cat", (0, 0, 30, 30)), ("drum", (60, 0, 90, 30)))
    assert expressions(scene) == {
        "the cat": (0, 0, 30, 30),
        "the only animal": (0, 0, 30, 30),
        "the drum": (60, 0, 90, 30),
        "the only instrument": (60, 0, 90, 30),
    }


def test_the_largest_has_at_least_14_times_the_area_of_the_next(make_scene: MakeScene) -> None:
    small: XYXY = (50, 0, 60, 10)  # 100 square pixels
    assert expressions(make_scene(("cat", (0, 0, 14, 10)), ("dog", small)))["the largest animal"] == (0, 0, 14, 10)
    assert "the largest animal" not in expressions(make_scene(("cat", (0, 0, 13.9, 10)), ("dog", small)))


def test_the_leftmost_is_at_least_12_pixels_left_of_the_next_by_centre(make_scene: MakeScene) -> None:
    left: XYXY = (10, 10, 40, 40)
    assert expressions(make_scene(("cat", left), ("dog", (22, 10, 52, 40))))["the leftmost animal"] == left
    assert "the leftmost animal" not in expressions(make_scene(("cat", left), ("dog", (21, 10, 51, 40))))


def test_the_margin_grows_with_the_image(make_scene: MakeScene) -> None:
    left, right = ("cat", (10, 10, 40, 40)), ("dog", (22, 10, 52, 40))
    assert "the leftmost animal" in expressions(make_scene(left, right, size=112))
    assert "the leftmost animal" not in expressions(make_scene(left, right, size=224))


def test_order_is_counted_from_the_left_and_the_top(make_scene: MakeScene) -> None:
    boxes: list[XYXY] = [(0, 60, 20, 80), (30, 0, 50, 20), (60, 30, 80, 50)]
    found = expressions(make_scene(*(("apple", box) for box in boxes)))
    assert found["the second apple from the left"] == boxes[1]
    assert found["the second apple from the top"] == boxes[2]
    assert found["the rightmost apple"] == boxes[2]
    assert found["the bottommost fruit"] == boxes[0]


def test_a_relation_needs_one_that_fits_and_all_others_on_the_far_side(make_scene: MakeScene) -> None:
    anchor, left = ("drum", (50, 50, 70, 70)), ("cat", (10, 50, 30, 70))  # centres at x 60 and 20
    clear = expressions(make_scene(anchor, left, ("dog", (80, 50, 100, 70))))
    assert clear["the animal left of the drum"] == (10, 50, 30, 70)
    assert clear["the animal right of the drum"] == (80, 50, 100, 70)
    doubtful = expressions(make_scene(anchor, left, ("dog", (55, 20, 75, 40))))  # only 5 pixels to the right
    assert "the animal left of the drum" not in doubtful
    both = expressions(make_scene(anchor, left, ("dog", (10, 80, 30, 100))))
    assert "the animal left of the drum" not in both


def test_a_class_with_two_objects_is_not_an_anchor(make_scene: MakeScene) -> None:
    scene = make_scene(
        ("drum", (50, 50, 70, 70)), ("drum", (50, 0, 70, 20)), ("cat", (10, 50, 30, 70)), ("dog", (80, 50, 100, 70))
    )
    assert not [expression for expression in expressions(scene) if expression.endswith("the drum")]


def flipped_scene(scene: Scene, make_scene: MakeScene) -> Scene:
    """The scene flipped left to right."""
    width = scene.size.width
    boxes = [(o.class_name, (width - o.box.x2, o.box.y1, width - o.box.x1, o.box.y2)) for o in scene.objects]
    return make_scene(*boxes)


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def swapped(expression: str, scene: Scene) -> str:
    """Left and right exchanged; the k-th of n from the left becomes the (n + 1 - k)-th from the left."""
    words = expression.split()
    if not expression.endswith("from the left"):
        return expression.replace("left", "<").replace("right", "left").replace("<", "right")
    noun = " ".join(words[2:-3])
    number = sum(noun in (o.class_name, o.group) for o in scene.objects)
    return " ".join(["the", ORDINALS[number - 1 - ORDINALS.index(words[1])], noun, "from the left"])


def test_flipping_the_image_swaps_left_and_right_and_nothing_else(make_scene: MakeScene) -> None:
    rng = np.random.default_rng(2)
    plan = [PlanItem("cat", 2), PlanItem("dog", 2), PlanItem("drum")]
    for _ in range(15):
        scene = render_scene(rng, plan)
        found = expressions(scene).items()
        flipped = {(swapped(e, scene), (112 - x2, y1, 112 - x1, y2)) for e, (x1, y1, x2, y2) in found}
        assert flipped == set(expressions(flipped_scene(scene, make_scene)).items())


def test_every_present_class_and_the_given_number_of_others_are_queried(make_scene: MakeScene) -> None:
    scene = make_scene(("cat", (0, 0, 30, 30)), ("cat", (60, 0, 90, 30)), ("drum", (60, 60, 112, 112)))
    rng = np.random.default_rng(0)
    found = questions_for(scene, rng, classes=("cat", "drum", "rose", "taxi"), num_absent=2, num_grounding=3)
    assert [question.kind for question in found[:4]] == ["present", "present", "absent", "absent"]
    assert [question.task for question in found[4:]] == ["grounding"] * 3
    assert len({(question.task, question.query) for question in found}) == 7
