"""``virft.reward`` gives what the trainer gives, for targets as nouns and as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factories import box, detections, sample
from virft.cli.main import main
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import BoxSpace
from virft.recipes.single_reward import reward
from virft.tasks.counting import Count
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import Label, Point, Points, RewardContext, ShortAnswer

TEXT = "<answer>[{'Position': [100, 100, 500, 500], 'Confidence': 0.5}]</answer>"


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_the_reward_is_that_of_the_trainer(preset: Any) -> None:
    target = detections((64, 48, 320, 192))
    one = sample(target, size=(640, 480))
    rule = RewardRule(preset=preset, weights={"format": 0.5}, iou_threshold=0.25)
    grader = Grader(rule=rule, thinking=True, box_space=BoxSpace.RELATIVE_1000)
    expected = grader.grade(TEXT, one, resized=one.target_size, context=RewardContext())
    found = reward(
        TEXT, target, image_size=(640, 480), thinking=True, preset=preset, weights={"format": 0.5}, iou_threshold=0.25
    )
    assert (found.total, found.parts, found.reading) == (expected.total, expected.parts, expected.reading)
    assert found.weights == {"iou": 1.0, "confidence": 1.0, "format": 0.5}


@pytest.mark.parametrize(
    ("task", "text", "noun", "plain"),
    [
        ("detection", TEXT, detections((100, 100, 500, 400)), [[100, 100, 500, 400]]),
        ("detection", TEXT, detections((100, 100, 500, 400)), [box(100, 100, 500, 400)]),
        ("detection", TEXT, detections((100, 100, 500, 400)), list(detections((100, 100, 500, 400)).items)),
        ("detection", TEXT, detections((100, 100, 500, 400)), np.array([[100.0, 100, 500, 400]])),
        ("detection", TEXT, detections((100, 100, 500, 400)), {"boxes": [[100, 100, 500, 400]]}),
        ("detection", "<answer>No Objects</answer>", detections(), []),
        ("detection", TEXT, detections((100, 100, 500, 400)), "[[100, 100, 500, 400]]"),
        ("detection", "<answer>No Objects</answer>", detections(), "No Objects"),
        ("classification", "<answer>Fox</answer>", Label(text="fox"), "fox"),
        ("grounding", "<answer>(0,0),(500,500)</answer>", box(0, 0, 500, 500), "(0,0),(500,500)"),
        (
            "classification",
            "<answer>Fox</answer>",
            Label(text="x", aliases=("fox",)),
            {"label": "x", "aliases": ["fox"]},
        ),
        ("grounding", "<answer>(0,0),(500,500)</answer>", box(0, 0, 500, 500), (0, 0, 500, 500)),
        ("counting", "<answer>3</answer>", Count(3), 3),
        ("counting", "<answer>3</answer>", Count(3), '{"count": 3}'),
        (
            "short_answer",
            "<answer>95</answer>",
            ShortAnswer(answers=("100",), kind="number", relative_tolerance=0.05),
            '{"answers": [100], "kind": "number", "relative_tolerance": 0.05}',
        ),
    ],
)
def test_a_plain_target_is_rewarded_as_its_noun(task: str, text: str, noun: Any, plain: Any) -> None:
    assert reward(text, plain, task) == reward(text, noun, task)
    assert reward(text, noun, task).total > 1.0


def test_a_target_text_is_in_the_unit_of_the_completion() -> None:
    # thousandths of 200 x 100: [20, 10, 100, 50] in pixels
    text = "<answer>[[100, 100, 500, 500]]</answer>"
    assert reward(text, "[[100, 100, 500, 500]]", image_size=(200, 100)).parts["iou"] == pytest.approx(1.0)
    assert reward(text, [[20, 10, 100, 50]], image_size=(200, 100)).parts["iou"] == pytest.approx(1.0)


def test_a_reward_function_of_the_users_own_is_a_part() -> None:
    def brevity(reading: Any, target: Any, context: Any) -> float:
        return 0.25

    found = reward("<answer>fox</answer>", "fox", "classification", extra=[brevity], weights={"brevity": 2.0})
    assert found.parts["brevity"] == 0.25
    assert found.total == pytest.approx(2.5)  # label 1 + format 1 + 2 x 0.25


def test_boxes_in_pixels_of_the_resized_image_are_scaled() -> None:
    # the model saw half of 200 x 100
    text = "<answer>[[10, 10, 50, 25]]</answer>"
    found = reward(text, [[20, 20, 100, 50]], image_size=(200, 100), resized=(100, 50), box_space="resized_pixels")
    assert found.parts["iou"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": [], "task": "detect"}, ConfigError, "task is 'detect'; expected one of detection, "),
        ({"target": [], "box_space": "pixels"}, ConfigError, "box_space is 'pixels'; expected one of relative_1000, "),
        ({"target": [], "weights": {"fromat": 1}}, ConfigError, "did you mean format?"),
        ({"target": [[1, 2]]}, DataError, r"reward\(\): box \[1, 2\] is not four numbers"),
        ({"target": [[0, 0, 2000, 9]]}, DataError, r"reward\(\): box \[0, 0, 2000, 9\] "),
        (
            {"target": "fox"},
            ConfigError,
            "^target 'fox': neither a list of boxes nor .*; expected an answer of detection",
        ),
        ({"target": "[[1, 2]]"}, ConfigError, r"^target '\[\[1, 2\]\]': 2 values in a box"),
        ({"target": "", "task": "classification"}, ConfigError, "^target '': "),
        ({"target": 5}, DataError, r"reward\(\): target.boxes is 5"),
        (
            {"target": Points(items=(Point(300, 300),)), "task": "pointing"},
            DataError,
            r"reward\(\): target has 1 points and no objects; expected a box for each",
        ),
        (
            {"target": '{"answers": ["A"], "kind": "choice"}', "task": "short_answer"},
            DataError,
            "^target: 0 options; expected 2 to 26",
        ),
    ],
)
def test_what_cannot_be_rewarded_is_an_error(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reward(TEXT, **arguments)


def test_a_reward_shows_its_parts_and_how_boxes_were_matched() -> None:
    found = reward(TEXT, [[100, 100, 500, 400]], weights={"format": 0.5})
    assert repr(found).startswith(f"<Reward {found.total:.3f}: iou 0.750, confidence ")
    page = found._repr_html_()
    assert '<tr><th scope="row">format</th><td>1.000</td><td>0.5</td><td>0.500</td></tr>' in page
    assert "target 1, IoU 0.750, hit" in page
    assert str(found) == found.explanation


def test_text_of_a_model_is_escaped() -> None:
    page = reward("<answer><script>alert(1)</script></answer>", "fox", "classification")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("task", "target"), [("pointing", "[[1, 2, 3, 4]]"), ("grounding", "[1, 2, 3, 4]"), ("counting", "1")]
)
def test_a_threshold_without_effect_is_refused(task: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"iou_threshold has no effect: the reward of {task} does not depend on it; remove it"
    with pytest.raises(ConfigError, match=message):
        reward("x", target, task, iou_threshold=0.5)
    assert main(["explain", "x", "--task", task, "--target", target, "--iou-threshold", "0.7"]) == 2
    assert message in capsys.readouterr().err
    assert main(["explain", "x", "--task", task, "--target", target]) == 0
