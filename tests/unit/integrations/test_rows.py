"""Rows are graded as virft's trainer does, and only with the prompting that they record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from row_factories import FOX_ANSWER, fox_row, label_row
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import BoxSpace
from virft.integrations.ms_swift import make_orm
from virft.integrations.resizing import QwenResize
from virft.integrations.rows import RowGrader, ground_truth_of, row_of_ground_truth, sample_of_row
from virft.integrations.trl import VisualReward
from virft.rewards import easyr1, verl
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import ImageSize, RewardContext

PLAIN = RowGrader(box_space="relative_1000", thinking=False)
HALF = QwenResize(unit=8, min_pixels=1, max_pixels=800)
"""64 x 48 is seen as 32 x 24: sides / sqrt(3072 / 800) = 32.7, 24.5, in multiples of 8."""


def test_the_target_as_completion_gets_every_part() -> None:
    report = PLAIN.grade(FOX_ANSWER, fox_row())
    # confidence: 2 x 1 x 1 - 1^2
    assert report.parts == pytest.approx({"iou": 1.0, "confidence": 1.0, "format": 1.0})
    assert report.total == pytest.approx(3.0)


@pytest.mark.parametrize("preset", ["robust", "paper"])
@pytest.mark.parametrize("text", [FOX_ANSWER, "<answer>No Objects</answer>", "[0,0,500,500]", "<think>a</think>"])
def test_the_reward_is_that_of_virfts_own_trainer(preset: Any, text: str) -> None:
    rule = RewardRule(preset=preset, weights={"format": 0.5}, iou_threshold=0.25)
    own = Grader(rule=rule, thinking=True, box_space=BoxSpace.RELATIVE_1000)
    row = fox_row(thinking=True)
    sample = sample_of_row(row, where="row")
    expected = own.grade(text, sample, resized=ImageSize(64, 48), context=RewardContext())
    assert RowGrader(box_space="relative_1000", thinking=True, rule=rule).grade(text, row) == expected


POINTS_ROW = fox_row() | {"task": "pointing", "target": {"objects": [[0, 0, 32, 24]], "crowd": None}}
ANSWER_ROW = fox_row() | {
    "task": "short_answer",
    "target": {"answers": ["200"], "kind": "number", "relative_tolerance": 0.05, "options": None},
}


@pytest.mark.parametrize(
    ("row", "text", "parts"),
    [
        (POINTS_ROW, '<answer>[{"point_2d": [250, 250], "label": "fox"}]</answer>', {"hit": 1.0, "closeness": 1.0}),
        (POINTS_ROW, "<answer>No Objects</answer>", {"hit": 0.0, "closeness": 0.0}),
        (ANSWER_ROW, "<answer>195</answer>", {"answer": 1.0}),
        (ANSWER_ROW, "<answer>100-300</answer>", {"answer": 0.0}),
    ],
)
def test_rewards_of_all_trainers_for_points_and_short_answers(
    row: dict[str, Any], text: str, parts: dict[str, float]
) -> None:
    expected = parts | {"format": 1.0}
    assert PLAIN.grade(text, row).parts == expected
    truth, one = ground_truth_of(row), {"response": text, "ground_truth": ground_truth_of(row)}
    how: dict[str, Any] = {"box_space": "relative_1000", "thinking": False}
    found = [
        verl.compute_score("foxes", text, truth, **how),
        easyr1.compute_score([one], **how)[0]["overall"],
        *make_orm(**how)()(completions=[text], ground_truth=[truth]),
        *VisualReward(**how)(["fox"], [text], **{name: [value] for name, value in row.items()}),
    ]
    assert found == pytest.approx([sum(expected.values())] * 4)


def test_a_think_block_opened_by_the_prompt_counts() -> None:
    grade = RowGrader(box_space="relative_1000", thinking=True, think_opened=True).grade
    assert grade(f"red fur</think>{FOX_ANSWER}", fox_row(thinking=True)).total == pytest.approx(3.0)
    # a second open tag is too many
    assert grade(f"<think>red fur</think>{FOX_ANSWER}", fox_row(thinking=True)).parts["format"] == 0.0


def test_the_rewards_of_all_trainers_support_opened_think_blocks() -> None:
    row = fox_row(thinking=True)
    text, truth = f"red fur</think>{FOX_ANSWER}", ground_truth_of(row)
    how: dict[str, Any] = {"box_space": "relative_1000", "thinking": True, "think_opened": True}
    one = {"response": text, "ground_truth": truth}
    found = [
        verl.compute_score("foxes", text, truth, **how),
        easyr1.compute_score([one], **how)[0]["overall"],
        *make_orm(**how)()(completions=[text], ground_truth=[truth]),
        *VisualReward(**how)(["fox"], [text], **{name: [value] for name, value in row.items()}),
    ]
    assert found == pytest.approx([3.0] * 4)


def test_boxes_in_pixels_of_the_resized_image_are_scaled() -> None:
    grader = RowGrader(box_space=BoxSpace.RESIZED_PIXELS, thinking=False, resize=HALF)
    text = "<answer>[{'Position':[8,6,16,12]}]</answer>"  # half of [16, 12, 32, 24]
    assert grader.grade(text, fox_row(box_space="resized_pixels")).parts["iou"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box_space": "resized_pixels"}, "box_space resized_pixels needs resize, from an image's size to the size"),
        ({"box_space": "relative_1000", "resize": HALF}, "resize has no effect: box_space is relative_1000; remove it"),
        ({"box_space": "original_pixels", "resize": HALF}, "resize has no effect: box_space is original_pixels"),
        ({"box_space": "relative"}, "box_space: 'relative' is not known; expected one of relative_1000, resized_pix"),
        (
            {"box_space": "relative_1000", "rule": RewardRule(overlong_tokens=8)},
            "overlong_tokens has no effect: other trainers do not report the length of a completion",
        ),
        ({"box_space": "relative_1000", "think_opened": True}, "think_opened has no effect: thinking is False"),
        ({"box_space": "relative_1000", "thinking": "yes"}, "thinking is 'yes'; expected True or False"),
    ],
)
def test_contradictory_arguments_are_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RowGrader(**({"thinking": False} | arguments))
    assert message in str(caught.value)


@pytest.mark.parametrize("argument", ["box_space", "thinking"])
def test_the_prompting_has_no_default(argument: str) -> None:
    arguments = {"box_space": "relative_1000", "thinking": False}
    del arguments[argument]
    with pytest.raises(TypeError, match=argument):
        RowGrader(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"box_space": "resized_pixels"},
            "its prompt was made with box_space resized_pixels, but it is graded with relative_1000; export the rows",
        ),
        ({"thinking": True}, "its prompt was made with thinking True, but it is graded with False"),
        ({"box_space": None}, "its prompt was made with box_space None, but it is graded with relative_1000"),
        ({"target": None}, "target is missing; expected task, target, image_size, box_space, thinking"),
        ({"image_size": None}, "image_size is missing; expected task, target, image_size, box_space, thinking"),
        ({"image_size": [64]}, "image_size is [64]; expected [width, height] in pixels"),
        ({"target": "[1, 2, 3, 4]"}, "target is '[1, 2, 3, 4]'; expected an object with boxes, label, "),
        ({"task": "tracking"}, "task is 'tracking'; expected one of detection, classification, grounding"),
        ({"task": "grounding"}, "target: box is missing"),
        ({"target": {"boxes": [[16, 12, 90, 24]]}}, "box [16, 12, 90, 24] reaches outside its image"),
    ],
)
def test_a_row_that_cannot_be_graded_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        PLAIN.grade(FOX_ANSWER, fox_row(**changes))
    assert str(caught.value).startswith("row a.png:fox: ")
    assert message in str(caught.value)


def test_an_image_of_another_size_is_refused() -> None:
    PLAIN.grade(FOX_ANSWER, fox_row(), image=Image.new("RGB", (64, 48)))
    with pytest.raises(
        DataError, match="its image has 48 x 64 pixels; expected 64 x 48, the size that its boxes refer to"
    ):
        PLAIN.grade(FOX_ANSWER, fox_row(), image=Image.new("RGB", (48, 64)))


def test_a_rising_threshold_needs_the_training_progress() -> None:
    grader = RowGrader(box_space="relative_1000", thinking=False, rule=RewardRule(iou_threshold_end=0.9))
    with pytest.raises(ConfigError, match="iou_threshold_end has no effect"):
        grader.grade(FOX_ANSWER, fox_row())
    # IoU of [16, 12, 32, 24] and its left two thirds of width: 2 / 3, between the thresholds 0.5 and 0.9
    text = "<answer>[{'Position':[250,250,416.6667,500]}]</answer>"
    first, last = (grader.grade(text, fox_row(), context=RewardContext(step_frac=frac)) for frac in (0.0, 1.0))
    assert (first.parts["iou"], last.parts["iou"]) == (pytest.approx(2 / 3, abs=1e-5), 0.0)


@pytest.mark.parametrize("row", [fox_row(), label_row(), fox_row(target={"boxes": []}, prompt=["?"])])
def test_a_ground_truth_holds_all_that_grading_needs(row: dict[str, Any]) -> None:
    text = ground_truth_of(row)
    assert "prompt" not in json.loads(text)
    for answer in (FOX_ANSWER, "<answer>No Objects</answer>", "<answer>Fox</answer>", "?"):
        assert PLAIN.grade(answer, row_of_ground_truth(text)) == PLAIN.grade(answer, row)


def test_an_invalid_row_has_no_ground_truth() -> None:
    with pytest.raises(DataError, match="image_size is missing"):
        ground_truth_of(fox_row(image_size=None))


@pytest.mark.parametrize("text", ["fox", "[1, 2]", None, 3])
def test_another_ground_truth_is_refused(text: Any) -> None:
    with pytest.raises(
        DataError, match=r"ground_truth is .*; expected the text of virft.integrations.rows.ground_truth_of"
    ):
        row_of_ground_truth(text)
