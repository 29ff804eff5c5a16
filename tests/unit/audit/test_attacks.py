"""The cheats themselves."""

from __future__ import annotations

import pytest

from factories import box, detections, sample
from virft.audit.attacks import attack_texts, known_answers
from virft.types import Label, TaskName

# of 64 x 48 pixels: 16..32 by 12..24, and the right lower quarter
BOXES = (16, 12, 32, 24), (32, 24, 64, 48)


def test_the_usual_box_is_the_mean_of_all_boxes_relative_to_their_images() -> None:
    known = known_answers([sample(detections(BOXES[0])), sample(detections(BOXES[1])), sample(detections())])
    # (250, 250, 500, 500) and (500, 500, 1000, 1000)
    assert known.boxes == {TaskName.DETECTION: (375, 375, 750, 750)}
    assert known.labels == ()


def test_names_stand_in_the_order_of_how_often_they_are_right() -> None:
    asked = [sample(Label(text=name), task=TaskName.CLASSIFICATION) for name in ("cat", "dog", "dog")]
    known = known_answers(asked)
    assert known.labels == ("dog", "cat")
    texts = attack_texts(asked[0], known, thinking=False)
    assert texts["commonest name"] == "<answer>dog</answer>"
    assert texts["all names with or"] == "<answer>dog or cat</answer>"


def test_boxes_of_detection_are_written_with_each_confidence() -> None:
    asked = sample(detections(BOXES[0]))
    texts = attack_texts(asked, known_answers([asked]), thinking=False)
    one = "{'Position': [250, 250, 500, 500], 'Confidence': 0.5}"
    assert texts["mean box of the data, confidence 0.5"] == f"<answer>[{one}]</answer>"
    assert texts["one box 20 times, confidence 0.5"].count(one) == 20
    assert texts["one box shifted 10 times, confidence 1"].count("Position") == 10
    assert texts["4 x 4 grid, confidence 0"].count("Position") == 16
    assert "'Position': [750, 750, 1000, 1000]" in texts["4 x 4 grid, confidence 0"]
    assert texts["always No Objects"] == "<answer>No Objects</answer>"
    assert "２５０" in texts["digits of another script"]


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (TaskName.DETECTION, detections()),
        (TaskName.CLASSIFICATION, Label(text="cat")),
        (TaskName.GROUNDING, box(16, 12, 32, 24)),
    ],
)
def test_what_a_cheat_writes_does_not_depend_on_what_is_right(task: TaskName, target) -> None:
    others = {
        TaskName.DETECTION: detections(BOXES[1]),
        TaskName.CLASSIFICATION: Label(text="dog"),
        TaskName.GROUNDING: box(0, 0, 1, 1),
    }
    asked, other = sample(target, task=task), sample(others[task], task=task)
    known = known_answers([asked, other])
    assert attack_texts(asked, known, thinking=True) == attack_texts(other, known, thinking=True)


def test_with_thinking_every_block_of_an_answer_stands_behind_a_thought() -> None:
    asked = sample(detections(BOXES[0]))
    texts = attack_texts(asked, known_answers([asked]), thinking=True)
    assert texts["always No Objects"] == "<think>I look.</think><answer>No Objects</answer>"
    assert texts["empty text"] == ""
    assert len(texts["a megabyte"]) > 2**20
