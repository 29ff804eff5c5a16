"""Rows of JSON in each format, valid and invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from factories import box, detections, labelled, save_image
from virft.cli.main import main
from virft.data.annotations import Skipped
from virft.data.sampling import SplitPlan
from virft.data.sources.rows import row_schema, write_row_stores
from virft.data.store import Store
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.geometry.points import point_target
from virft.types import Label, Sample

ROOT = Path(__file__).parents[4]
BOXES = {"boxes": [[10, 10, 30, 40]]}


def build(
    folder: Path, *rows: Any, split: SplitPlan | None = None, ending: str = "jsonl", **texts: Any
) -> tuple[list[Sample], Any]:
    """The samples of the rows about a.png and b.png (64 x 48), and the card."""
    for name in ("a.png", "b.png"):
        save_image(folder / "images" / name)
    file = folder / f"rows.{ending}"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n" if ending == "jsonl" else f"[{','.join(lines)}]")
    cards = write_row_stores(
        file,
        folder / "images",
        folder / "out",
        split=split or SplitPlan(),
        source={},
        skipped=Skipped(),
        overwrite=True,
        **texts,
    )
    return [sample for part in cards for sample in Store(part)], cards


def card(cards: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (only,) = cards.values()
    return only


ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "query": "fox", "target": BOXES, "id": "first"},
    {"image": "a.png", "query": "animal", "target": {"label": "red fox", "aliases": ["fox"]}, "region": [1, 2, 9, 9]},
    {"image": "b.png", "query": "the one left", "target": {"box": [1, 2, 3, 4], "polygons": [[1, 2, 3, 2, 2, 4]]}},
    {"image": "b.png", "query": "fox", "target": BOXES | {"areas": [99.5], "crowd": [[0, 0, 5, 5]]}},
    {
        "image": "b.png",
        "query": "the other",
        "target": {"box": [1, 2, 3, 4], "rle": {"size": [48, 64], "counts": [3072]}, "ignored": [[1, 2, 3, 2, 2, 4]]},
    },
]
OWN_QUESTIONS: list[dict[str, Any]] = [
    {"question": "Where?"},
    {"prompt": "Where?"},
    {"prompt": [{"role": "user", "content": "Where?"}]},
    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}]},
]


INVALID: list[tuple[Any, str]] = [
    ({"image": "a.png", "query": "fox"}, "target is None; expected an object with boxes, label, "),
    ({"image": "a.png", "target": BOXES}, "query is missing; expected query, question or prompt"),
    ({"image": "a.png", "query": " ", "target": BOXES}, "query is ' '; expected text that is not empty"),
    ({"image": "a.png", "query": "fox", "target": {"boxes": [[1, 2, 3]]}}, "box [1, 2, 3] is not four numbers"),
    (
        {"image": "a.png", "query": "fox", "target": {"boxes": [[9, 9, 99, 40]]}},
        "box [9, 9, 99, 40] reaches",
    ),
    (
        {"image": "a.png", "query": "fox", "target": BOXES, "region": [9, 9, 9, 40]},
        "region: box [9, 9, 9, 40] has x2 <= x1",
    ),
    ({"image": "a.png", "query": "fox", "target": BOXES, "bbox": 1}, "bbox is not a key of a row; expected id, image"),
    ({"image": "c.png", "query": "fox", "target": BOXES}, "image c.png: no such image"),
    ({"image": "../z.png", "query": "fox", "target": BOXES}, "image ../z.png is not in the folder of the images"),
    ({"image": "a.png", "images": ["a.png"], "query": "fox", "target": BOXES}, "image and images are both given"),
    ({"query": "fox", "target": BOXES}, "image is missing; expected a path inside the folder"),
    ({"image": "a.png", "question": "Q", "prompt": "P", "target": BOXES}, "question and prompt are both given"),
    ({"image": "a.png", "prompt": [{"role": "system", "content": "P"}], "target": BOXES}, "prompt is [{'role'"),
    ({"image": "a.png", "prompt": [{"role": "user", "content": []}], "target": BOXES}, "the prompt holds no text"),
    ({"image": "a.png", "query": "fox", "target": BOXES, "id": "good"}, "id 'good' was used before"),
    (
        {"image": "a.png", "query": "fox", "target": BOXES, "target_image": 1},
        "target_image is 1; expected",
    ),
    (
        {"image": "a.png", "query": "fox", "target": {"box": [1, 2, 3, 4], "rle": {"size": [64, 48], "counts": "PP3"}}},
        "rle has the size [64, 48]; expected [48, 64], height and width of its image",
    ),
    ("{", "not valid JSON"),
    ("[1]", "[1] is not an object"),
]


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_every_task_can_be_a_row(tmp_path: Path, ending: str) -> None:
    samples, _ = build(tmp_path, *ROWS, ending=ending)
    assert [one.task for one in samples] == ["detection", "classification", "grounding", "detection", "grounding"]
    assert [one.query for one in samples] == ["fox", "animal", "the one left", "fox", "the other"]
    assert [one.target for one in samples[:3]] == [
        detections((10, 10, 30, 40)),
        Label(text="red fox", aliases=("fox",)),
        box(1, 2, 3, 4),
    ]
    assert samples[0].id == "first"
    assert [one.region for one in samples[:2]] == [None, box(1, 2, 9, 9)]
    assert samples[2].polygons == ((1, 2, 3, 2, 2, 4),)
    assert (samples[4].rle, samples[4].ignored) == ("PP3", ((1, 2, 3, 2, 2, 4),))
    assert (samples[3].areas, samples[3].crowd) == ((99.5,), (box(0, 0, 5, 5),))
    assert len({one.id for one in samples}) == 5


@pytest.mark.parametrize("own", OWN_QUESTIONS)
def test_a_question_of_the_row_is_not_changed(tmp_path: Path, own: dict[str, Any]) -> None:
    (plain, named), _ = build(
        tmp_path,
        {"image": "a.png", "target": BOXES} | own,
        {"images": ["a.png"], "query": "fox", "target": BOXES} | own,
    )
    assert (plain.question, plain.query) == ("Where?", "Where?")
    assert (named.question, named.query) == ("Where?", "fox")


@pytest.mark.parametrize(("row", "reason"), INVALID)
def test_an_invalid_row_is_skipped_and_reported(tmp_path: Path, row: Any, reason: str) -> None:
    samples, cards = build(tmp_path, {"image": "b.png", "query": "fox", "target": BOXES, "id": "good"}, row)
    assert [one.id for one in samples] == ["good"]
    (skipped,) = card(cards)["skipped"]
    assert skipped["where"] == "rows.jsonl:2"
    assert skipped["reason"].startswith(reason)


def test_rows_of_one_image_stay_in_one_part(tmp_path: Path) -> None:
    rows = [{"image": name, "query": query, "target": BOXES} for query in ("fox", "hen") for name in ("a.png", "b.png")]
    build(tmp_path, *rows, split=SplitPlan(test_frac=0.5))
    parts = [{Path(one.images[0]).name for one in Store(tmp_path / "out" / part)} for part in ("train", "test")]
    assert sorted(map(sorted, parts)) == [["a.png"], ["b.png"]]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "query": "fox", "target": BOXES}]
    for name in ("one", "two"):
        build(tmp_path / name, *rows)
    for file in ("samples.jsonl", "card.json"):
        assert (tmp_path / "one" / "out" / file).read_bytes() == (tmp_path / "two" / "out" / file).read_bytes()


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples came out of the source; nothing was written"):
        build(tmp_path, "{")
    assert not (tmp_path / "out").exists()
    (tmp_path / "rows.json").write_text('{"image": 1}')
    with pytest.raises(DataError, match=r"rows\.json: holds a dict; expected a list of rows"):
        write_row_stores(
            tmp_path / "rows.json",
            tmp_path / "images",
            tmp_path / "out",
            split=SplitPlan(),
            source={},
            skipped=Skipped(),
        )


def test_the_command_builds_and_reports_skipped_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, {"image": "a.png", "query": "fox", "target": BOXES}, {"image": "a.png"})
    argv = ["build", "rows", str(tmp_path / "rows.jsonl"), str(tmp_path / "images"), str(tmp_path / "verb")]
    assert main(argv) == 0
    assert "skipped rows.jsonl:2: query is missing" in capsys.readouterr().out
    assert main([*argv, "--overwrite", "--strict"]) == 2
    assert "rows.jsonl:2: query is missing" in capsys.readouterr().err


def test_the_schema_accepts_the_rows_that_the_builder_accepts() -> None:
    Draft202012Validator.check_schema(row_schema())
    schema = Draft202012Validator(row_schema())
    own = [{"image": "a.png", "target": BOXES} | question for question in OWN_QUESTIONS]
    for row in [*ROWS, *own]:
        schema.validate(row)


def test_the_schema_refuses_faults_that_are_visible_in_the_row() -> None:
    schema = Draft202012Validator(row_schema())
    taken = [reason for row, reason in INVALID if isinstance(row, dict) and schema.is_valid(row)]
    # the remaining faults depend on the images, on other rows, or on a comparison of numbers
    assert [reason[:20] for reason in taken] == [
        "box [9, 9, 99, 40] r",
        "region: box [9, 9, 9",
        "image c.png: no such",
        "image ../z.png is no",
        "the prompt holds no ",
        "id 'good' was used b",
        "target_image is 1; e",
        "rle has the size [64",
    ]


def test_the_schema_in_the_documentation_is_the_one_of_the_code() -> None:
    page = (ROOT / "docs" / "rows.schema.json").read_text(encoding="utf-8")
    assert page == json.dumps(row_schema(), indent=2) + "\n"


def test_conversations_about_several_classes_are_read_with_their_labels(tmp_path: Path) -> None:
    def turn(answer: str) -> dict[str, Any]:
        question = "<image>Locate every cat and dog in pixels, report bbox coordinates in JSON format."
        return {
            "image": "a.png",
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
        }

    boxes = '[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}, {"bbox_2d": [5, 6, 9, 9], "label": "Dog"}]'
    options = {"task": "multiclass_detection", "space": BoxSpace.ORIGINAL_PIXELS}
    (sample,), cards = build(tmp_path, turn(boxes), turn("[]"), **options)
    assert sample.target == labelled(("cat", (1, 2, 30, 40)), ("Dog", (5, 6, 9, 9)), classes=("cat", "Dog"))
    (skipped,) = card(cards)["skipped"]
    assert "target.classes is empty; expected the class names of the question" in skipped["reason"]


def test_a_trl_prompt_that_is_the_query_alone_is_a_question_of_the_dataset(tmp_path: Path) -> None:
    row = {"images": ["a.png"], "query": "Colour?", "prompt": "Colour?", "target": {"answers": ["red"]}}
    of_trl = {"task": "short_answer", "image_size": [64, 48], "box_space": "relative_1000", "thinking": False}
    (sample,), _ = build(tmp_path, row | of_trl)
    assert sample.question == "Colour?"


def test_a_repeated_box_is_one_object(tmp_path: Path) -> None:
    (sample,), cards = build(tmp_path, {"image": "a.png", "query": "fox", "target": {"boxes": [[1, 2, 9, 9]] * 2}})
    assert sample.target == detections((1, 2, 9, 9))
    assert card(cards)["source"]["num_repeated_boxes"] == 1


def test_a_repeated_object_is_pointed_to_once(tmp_path: Path) -> None:
    outline = [[1, 2, 9, 2, 9, 9]]
    target = {"objects": [[1, 2, 9, 9], [20, 20, 30, 30], [1, 2, 9, 9]], "outlines": [outline, [], outline]}
    (sample,), cards = build(tmp_path, {"image": "a.png", "query": "fox", "target": target})
    boxes, outlines = [box(1, 2, 9, 9), box(20, 20, 30, 30)], [[(1.0, 2.0, 9.0, 2.0, 9.0, 9.0)], []]
    assert sample.target == point_target(boxes, outlines=outlines)
    assert card(cards)["source"]["num_repeated_boxes"] == 1


def test_rows_with_one_question_and_different_targets_are_not_used(tmp_path: Path) -> None:
    one, other = (
        {"image": "a.png", "query": "fox", "target": {"boxes": [box]}} for box in ([1, 2, 9, 9], [9, 9, 19, 19])
    )
    counted = {"image": "a.png", "query": "fox", "target": {"count": 2}}
    samples, cards = build(tmp_path, one, {**one, "query": "owl"}, other, counted)
    assert [(sample.task, sample.query) for sample in samples] == [("detection", "owl"), ("counting", "fox")]
    reason = "another row has the same question about the image and another target; expected one row"
    assert [record["reason"] for record in card(cards)["skipped"]] == [reason, reason]


def test_an_expression_may_fit_several_objects(tmp_path: Path) -> None:
    rows = [
        {"id": str(box), "image": "a.png", "query": "man", "target": {"box": box}}
        for box in ([1, 2, 9, 9], [9, 9, 19, 19])
    ]
    samples, _ = build(tmp_path, *rows)
    assert [sample.query for sample in samples] == ["man", "man"]


def test_lines_in_utf_16_are_read(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png")
    rows = [{"image": "a.png", "query": name, "target": BOXES} for name in ("fox", "\u732b")]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-16", newline="")
    command = ["build", "rows", str(tmp_path / "rows.jsonl"), str(tmp_path / "images"), str(tmp_path / "d")]
    assert main(command) == 0
    assert [sample.query for sample in Store(tmp_path / "d")] == ["fox", "\u732b"]


def test_an_image_name_can_have_accents_in_another_form(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "cafe\u0301.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "caf\u00e9.png", "query": "fox", "target": BOXES}))
    command = ["build", "rows", str(tmp_path / "rows.jsonl"), str(tmp_path / "images"), str(tmp_path / "d")]
    assert main(command) == 0
    assert len(Store(tmp_path / "d")) == 1
