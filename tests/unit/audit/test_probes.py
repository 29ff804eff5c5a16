"""Probes write the same text whatever the image shows."""

from __future__ import annotations

import pytest

from factories import box, detections, sample
from virft.audit.probes import probe_texts
from virft.tasks import TASKS
from virft.types import Label, Sample

# of 64 x 48 pixels: 16..32 by 12..24, and the right lower quarter
BOXES = (16, 12, 32, 24), (32, 24, 64, 48)
MEAN = "{'Position': [375, 375, 750, 750], 'Confidence': 0.5}"


def texts(one: Sample, *others: Sample, thinking: bool = False) -> dict[str, str]:
    return probe_texts(one, TASKS[one.task].probes([one, *others]), thinking=thinking)


def test_the_usual_box_is_the_mean_of_all_boxes_relative_to_their_images() -> None:
    found = texts(sample(detections(BOXES[0])), sample(detections(BOXES[1])), sample(detections()))
    # (250, 250, 500, 500) and (500, 500, 1000, 1000)
    assert found["mean box of the data, confidence 0.5"] == f"<answer>[{MEAN}]</answer>"
    assert found["many answer blocks"] == f"<answer>[{MEAN}]</answer>" * 50


def test_without_any_box_the_usual_box_is_the_whole_image() -> None:
    assert "[0, 0, 1000, 1000]" in texts(sample(detections()))["mean box, no confidence"]


def test_names_are_sorted_by_frequency() -> None:
    samples = [sample(Label(text=name), task="classification") for name in ("cat", "dog", "dog")]
    found = texts(*samples)
    assert found["commonest name"] == "<answer>dog</answer>"
    assert found["all names with or"] == "<answer>dog or cat</answer>"
    assert found["the query"] == "<answer>fox</answer>"


def test_detection_boxes_are_written_with_each_confidence() -> None:
    found = texts(sample(detections(BOXES[0])))
    one = "{'Position': [250, 250, 500, 500], 'Confidence': 0.5}"
    assert found["mean box of the data, confidence 0.5"] == f"<answer>[{one}]</answer>"
    assert found["one box 20 times, confidence 0.5"].count(one) == 20
    assert found["one box shifted 10 times, confidence 1"].count("Position") == 10
    assert found["4 x 4 grid, confidence 0"].count("Position") == 16
    assert "'Position': [750, 750, 1000, 1000]" in found["4 x 4 grid, confidence 0"]
    assert found["always No Objects"] == "<answer>No Objects</answer>"
    assert "２５０" in found["digits of another script"]


@pytest.mark.parametrize(
    ("task", "target", "other"),
    [
        ("detection", detections(), detections(BOXES[1])),
        ("classification", Label(text="cat"), Label(text="dog")),
        ("grounding", box(16, 12, 32, 24), box(0, 0, 1, 1)),
    ],
)
def test_a_probe_does_not_depend_on_the_target_of_its_sample(task: str, target: object, other: object) -> None:
    samples = [sample(target, task=task), sample(other, task=task)]
    probes = TASKS[task].probes(samples)
    first, second = (probe_texts(one, probes, thinking=True) for one in samples)
    assert first == second


def test_with_thinking_every_answer_block_follows_a_think_block() -> None:
    found = texts(sample(detections(BOXES[0])), thinking=True)
    assert found["always No Objects"] == "<think>I look.</think><answer>No Objects</answer>"
    assert found["empty text"] == ""
    assert len(found["a megabyte"]) > 2**20
