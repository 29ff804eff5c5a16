"""Rows of other training tools: answers as texts, and virft's own exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import Skipped
from virft.data.sampling import SplitPlan
from virft.data.sources.image_paths import find_images
from virft.data.sources.rows import write_row_stores
from virft.data.store import Store
from virft.geometry.boxes import BoxSpace
from virft.types import Box, Detections, Label, LabelledDetections, Sample

# The image has 64 x 48 pixels: 250 to 750 thousandths are the columns 16 to 48 and the rows 12 to 36.
THOUSANDTHS = "Detect all objects of the category 'cat' (between 0 and 1000, integer) and confidence (between 0 and 1)."
BOXES = "<answer>[{'Position': [250, 250, 750, 750], 'Confidence': 1}]</answer>"
SHAREGPT = [{"from": "human", "value": "<image>\nWhere is it?"}, {"from": "gpt", "value": "[16, 12, 48, 36]"}]
OPENAI = [
    {"role": "system", "content": "You see."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": [{"type": "image", "image": "file:///data/a.png"}, {"type": "text", "text": "Where?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "<think>left</think><answer>(16,12),(48,36)</answer>"}]},
]
INSIDE = (16, 12, 48, 36)


def build(root: Path, *rows: Any, **options: Any) -> tuple[list[Sample], list[dict[str, str]]]:
    save_image(root / "images" / "a.png")
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cards = write_row_stores(
        root / "rows.jsonl",
        root / "images",
        root / "d",
        split=SplitPlan(),
        source={},
        skipped=Skipped(),
        **options,
    )
    return list(Store(root / "d")), cards[str(root / "d")]["skipped"]


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"image": "a.png", "conversations": SHAREGPT}, "Where is it?"),
        ({"image": ["a.png"], "conversations": SHAREGPT}, "Where is it?"),
        ({"images": ["a.png"], "messages": OPENAI}, "Where?"),
        ({"messages": OPENAI}, "Where?"),
        ({"images": [{"path": "a.png"}], "query": "<image>Where?", "response": "[16, 12, 48, 36]"}, "Where?"),
        ({"image": "/data/train2014/a.png", "problem": "Where?", "solution": [16, 12, 48, 36]}, "Where?"),
    ],
)
def test_the_last_question_and_its_answer_become_a_sample(tmp_path: Path, row: Any, question: str) -> None:
    (sample,), skipped = build(tmp_path, row, space=BoxSpace.ORIGINAL_PIXELS)
    assert (sample.task, sample.question, skipped) == ("grounding", question, [])
    assert isinstance(sample.target, Box)
    assert sample.target.xyxy == INSIDE
    assert Path(sample.images[0]).name == "a.png"
    assert sample.rationale == ("left" if "messages" in row else None)


def test_the_json_of_visual_rft_is_read_in_the_coordinates_of_its_questions(tmp_path: Path) -> None:
    path = "/home/me/data/a.png"
    rows = [
        {"image_path": path, "problem": THOUSANDTHS, "solution": BOXES},
        {"image_path": path, "problem": "What bird is this?", "solution": "<answer>wren</answer>"},
        {"image_path": path, "problem": THOUSANDTHS, "solution": "<answer>No Objects</answer>"},
    ]
    samples, skipped = build(tmp_path, *rows)
    assert skipped == []
    assert [sample.query for sample in samples] == ["cat", "What bird is this?", "cat"]
    first, second, third = (sample.target for sample in samples)
    assert isinstance(first, Detections)
    assert [item.box.xyxy for item in first.items] == [INSIDE]
    assert second == Label(text="wren")
    assert third == Detections(items=())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"image": "a.png", "conversations": SHAREGPT},
            "the coordinates of its boxes are unknown; expected --space relative_1000",
        ),
        ({"image": "a.png", "conversations": SHAREGPT[:1]}, "conversations has no question of human or user that"),
        ({"image": "a.png", "messages": "hello"}, "messages is 'hello'; expected a list of turns"),
        ({"image": 3, "problem": "x", "solution": "y"}, "image is 3; expected a path, or a list of paths"),
        ({"problem": "x", "solution": "y"}, "image is missing; expected a path"),
        ({"image": "/else/b.png", "problem": "x", "solution": "y"}, "image /else/b.png is not in the folder of the"),
        ({"image": "a.png", "problem": " ", "solution": "y"}, "problem is ' '; expected a text"),
        ({"image": "a.png", "image_path": "a.png", "problem": "x", "solution": "y"}, "image and image_path are both"),
    ],
)
def test_a_row_without_a_usable_answer_is_skipped_and_reported(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"image": "a.png", "problem": "What?", "solution": "wren"}
    samples, (skipped,) = build(tmp_path, good, row)
    assert len(samples) == 1
    assert skipped["reason"].startswith(reason)


def test_placeholders_are_removed_from_questions_and_queries(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "question": "<image>\nWhich?", "target": {"label": "wren"}},
        {"image": "a.png", "prompt": [{"role": "user", "content": "<image>Which?"}], "target": {"label": "wren"}},
        {"image": "a.png", "query": "<image> the left one", "target": {"box": list(INSIDE)}},
    ]
    samples, _ = build(tmp_path, *rows)
    assert [sample.question for sample in samples] == ["Which?", "Which?", None]
    assert [sample.query for sample in samples] == ["Which?", "Which?", "the left one"]


def test_an_end_of_a_path_that_fits_two_images_is_neither(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png")
    save_image(tmp_path / "b" / "2.png")
    names = ["/x/a/1.png", "/x/c/1.png", "/x/b/2.png", "C:\\x\\b\\2.png", "3.png"]
    assert find_images(tmp_path, names[:3]) == {"/x/b/2.png": "b/2.png"}
    assert find_images(tmp_path, names[2:]) == {"3.png": "3.png"}
    assert find_images(tmp_path, ["1.png", "/x/1.png"]) == {"1.png": "1.png"}


def export_and_build(root: Path, kind: str, *options: str) -> list[Sample]:
    """The samples of a dataset that was exported and built again."""
    save_image(root / "images" / "a.png")
    target = {"boxes": [list(INSIDE), [1, 2, 9, 8]]}
    rows = [
        {"id": "one", "image": "a.png", "query": "cat", "target": target},
        {"id": "two", "image": "a.png", "query": "dog", "target": {"boxes": []}},
        {"id": "three", "image": "a.png", "question": "Which?", "query": "bird", "target": {"label": "wren"}},
        {"id": "four", "image": "a.png", "query": "the left one", "target": {"box": list(INSIDE)}},
    ]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["build", "rows", str(root / "rows.jsonl"), str(root / "images"), str(root / "d")]) == 0
    assert main(["export", str(root / "d"), str(root / kind), "--format", kind]) == 0
    file = root / kind / {"trl": "rows.jsonl", "llama-factory": "virft.json"}[kind]
    assert main(["build", "rows", str(file), str(root / "d" / "images"), str(root / "back"), *options]) == 0
    return list(Store(root / "back"))


def test_the_export_for_trl_comes_back_as_it_was(tmp_path: Path) -> None:
    back = export_and_build(tmp_path, "trl")
    assert (tmp_path / "back" / "samples.jsonl").read_text() == (tmp_path / "d" / "samples.jsonl").read_text()
    assert len(back) == 4


def test_the_export_for_llama_factory_comes_back_with_its_targets(tmp_path: Path) -> None:
    back = export_and_build(tmp_path, "llama-factory")
    first, second, third, fourth = (sample.target for sample in back)
    assert isinstance(first, Detections)
    assert isinstance(fourth, Box)
    boxes = [item.box.xyxy for item in first.items]
    assert boxes == [pytest.approx(INSIDE, abs=0.1), pytest.approx((1, 2, 9, 8), abs=0.1)]  # thousandths
    assert (second, third) == (Detections(items=()), Label(text="wren"))
    assert fourth.xyxy == pytest.approx(INSIDE, abs=0.1)
    assert all("<image>" not in (sample.question or "") for sample in back)


def test_boxes_with_several_labels_need_a_task(tmp_path: Path) -> None:
    """They may be of several classes, or of one whose objects have names of their own."""
    answer = [{"bbox_2d": [250, 250, 750, 750], "label": label} for label in ("cat", "dog")]
    row = {"image": "a.png", "problem": THOUSANDTHS, "solution": answer}
    same = row | {"solution": [{**one, "label": name} for one, name in zip(answer, ("cat", "Cat"), strict=True)]}
    _, skipped = build(tmp_path / "none", row, same)
    assert [one["where"] for one in skipped] == ["rows.jsonl:1"]
    assert "have the labels 'cat', 'dog'; expected --task multiclass_detection" in skipped[0]["reason"]
    (one,), skipped = build(tmp_path / "several", row, task="multiclass_detection")
    assert isinstance(one.target, LabelledDetections)
    assert (one.target.classes, skipped) == (("cat", "dog"), [])
    (one,), skipped = build(tmp_path / "one", row, task="detection")
    assert isinstance(one.target, Detections)
    assert (one.query, skipped) == ("cat", [])
