"""Class instructions: files, samples, questions, prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factories import detections, sample, save_coco, save_image
from runs import virft
from virft.data.augmentation import AugmentationLimits, draw_augmentation
from virft.data.class_notes import LONG_NOTES, read_class_notes
from virft.data.samples import sample_from_line, sample_to_line
from virft.data.store import Store
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.inference.queries import make_query, read_query_line
from virft.integrations.export import export_trl
from virft.tasks import TASKS
from virft.types import ClassNote

SHOWN = {"a.png": [("cat", [10, 10, 12, 12])], "b.png": [("dog", [20, 5, 20, 20])], "c.png": []}
CLASSES = ("cat", "dog", "hen")
NOTES = {"cat": "four legs,\na tail", "dog": "barks"}


def build(tmp_path: Path, *options: str, notes: object = NOTES, kind: str = "json") -> Store:
    annotations = save_coco(tmp_path, SHOWN, categories=CLASSES)  # type: ignore[arg-type]
    file = tmp_path / f"notes.{kind}"
    file.write_text(notes if isinstance(notes, str) else json.dumps(notes))
    command = ("build", "coco", annotations, tmp_path / "images", tmp_path / "data", "--class-notes", file, *options)
    assert virft(*command) == 0
    return Store(tmp_path / "data")


def test_questions_have_the_instructions_of_their_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = build(tmp_path, "--negatives-frac", "0.4")
    assert {(one.query, *one.notes) for one in store} >= {
        ("cat", ClassNote("cat", "four legs,\na tail")),
        ("dog", ClassNote("dog", "barks")),
    }
    assert all(not one.notes for one in store if one.query == "hen")
    assert "classes with instructions in the prompts: 2 of 3\n" in capsys.readouterr().out
    assert store.card["source"]["class_notes"]["file"] == "notes.json"


@pytest.mark.parametrize("task", ["counting", "pointing", "multiclass_detection"])
def test_every_task_from_boxes_has_them(tmp_path: Path, task: str) -> None:
    for one in build(tmp_path, "--task", task):
        names = one.query.split(", ")
        assert [note.name for note in one.notes] == [name for name in names if name in NOTES]
        text = TASKS[task].format_question(one, template="short", thinking=False)
        assert text.startswith("Class instructions:\n") == bool(one.notes)


def test_classification_has_those_of_all_labels(tmp_path: Path) -> None:
    for label in ("ash", "elm"):
        save_image(tmp_path / "trees" / label / f"{label}.png", seed=len(label))
    (tmp_path / "notes.toml").write_text('ash = "pinnate"\nelm = """\nserrate,\nuneven"""\n')
    command = ("build", "folders", tmp_path / "trees", tmp_path / "data", "--domain", "tree", "--class-notes")
    assert virft(*command, tmp_path / "notes.toml") == 0
    assert {one.notes for one in Store(tmp_path / "data")} == {
        (ClassNote("ash", "pinnate"), ClassNote("elm", "serrate,\nuneven"))
    }


def test_a_prompt_without_instructions_is_unchanged() -> None:
    one = sample(detections())
    task = TASKS[one.task]
    for template in ("paper", "short", "Look for {query}."):
        plain = task.format_question(one, template=template, thinking=False, space=BoxSpace.RELATIVE_1000)
        noted = replace(one, notes=(ClassNote("fox", "red"),))
        text = task.format_question(noted, template=template, thinking=False, space=BoxSpace.RELATIVE_1000)
        assert text == f"Class instructions:\nfox: red\n\n{plain}"
    assert '"notes"' not in sample_to_line(one)


def test_a_line_of_a_dataset_keeps_them() -> None:
    one = sample(detections(), notes=(ClassNote("fox", "red\nfur"), ClassNote("hen", "wings")))
    assert sample_from_line(sample_to_line(one), where="here") == one


@pytest.mark.parametrize("value", [[], {}, {"fox": 1}, {"fox": " "}, "red", {"": "red"}])
def test_other_instructions_in_a_line_are_an_error(value: object) -> None:
    record = json.loads(sample_to_line(sample(detections()))) | {"notes": value}
    with pytest.raises(DataError, match=r"here: .*expected (an object|text that is not empty)"):
        sample_from_line(json.dumps(record), where="here")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[]"), ("a.json", "{}"), ("a.json", '["x"]'), ("a.json", '{"cat": 1}'), ("a.json", '{"cat": ""}'),
        ("a.json", "{"), ("a.toml", "cat = 1"), ("a.toml", "cat"), ("a.toml", '[cat]\ntext = "x"'),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}: .*expected a text for each class"):
        read_class_notes(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_class_notes(tmp_path / f"no_{name}")


def test_an_unknown_class_gets_the_nearest_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = save_coco(tmp_path, SHOWN, categories=CLASSES)  # type: ignore[arg-type]
    (tmp_path / "notes.json").write_text('{"cta": "four legs"}')
    command = ("build", "coco", annotations, tmp_path / "images", tmp_path / "data", "--class-notes")
    assert virft(*command, tmp_path / "notes.json") == 2
    assert "the dataset has no class 'cta'; did you mean 'cat'?" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    # a file may be about classes that are not chosen
    (tmp_path / "notes.json").write_text(json.dumps(NOTES))
    assert virft(*command, tmp_path / "notes.json", "--classes", "cat") == 0


def test_long_instructions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, "--per-image", notes={"cat": "x" * LONG_NOTES, "dog": "y"})
    assert "a question has up to 4,001 characters of class instructions (about 1,000 tokens)" in capsys.readouterr().out


def test_rows_and_their_export_keep_them(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "query": "cat", "notes": {"cat": "tail"}, "target": {"boxes": []}},
        {"image": "a.png", "question": "Is there a cat?", "notes": {"cat": "tail"}, "target": {"label": "no"}},
    ]
    save_image(tmp_path / "images" / "a.png")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert virft("build", "rows", tmp_path / "rows.jsonl", tmp_path / "images", tmp_path / "data") == 0
    store = Store(tmp_path / "data")
    path = export_trl(store, tmp_path / "trl", template="paper", thinking=False, space=BoxSpace.RELATIVE_1000)
    prompts = [json.loads(line)["prompt"][0]["content"][-1]["text"] for line in path.read_text().splitlines()]
    assert all(text.startswith("Class instructions:\ncat: tail\n\n") for text in prompts)
    # Reading the export again gives the same samples: the instructions are not twice in the prompt.
    assert virft("build", "rows", path, tmp_path / "data" / "images", tmp_path / "again") == 0
    assert [(one.query, one.question, one.notes) for one in Store(tmp_path / "again")] == [
        (one.query, one.question, one.notes) for one in store
    ]


def test_a_side_in_the_instructions_prevents_a_flip() -> None:
    limits = AugmentationLimits(horizontal_flip=True)
    flips = {
        text: {
            draw_augmentation(
                sample(detections(), notes=(ClassNote("fox", text),)), np.random.default_rng(seed), limits
            ).horizontal_flip
            for seed in range(20)
        }
        for text in ("red", "on the left side")
    }
    assert flips == {"red": {False, True}, "on the left side": {False}}


def test_a_query_gets_the_instructions_of_its_classes() -> None:
    def names(query: str, task: str) -> list[str]:
        return [note.name for note in make_query("a.png", query, task, notes=NOTES).notes]

    assert names("dog", "detection") == ["dog"]
    assert names("hen, dog, cat", "multiclass_detection") == ["dog", "cat"]
    assert names("animal", "classification") == ["cat", "dog"]
    with pytest.raises(DataError, match="no class instructions for 'dgo'; did you mean 'dog'"):
        make_query("a.png", "dgo", "detection", notes=NOTES)
    # lines share a file, so one may be about another class
    assert read_query_line(b"a.png\then", task="detection", notes=NOTES).notes == ()
    line = json.dumps({"image": "a.png", "question": "cat", "notes": {"cat": "own"}}).encode()
    assert read_query_line(line, task="detection", notes=NOTES).notes == (ClassNote("cat", "own"),)
