"""Exported datasets hold the same boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from factories import box, detections, sample, save_image
from virft.cli.main import main
from virft.data.annotations import Skipped
from virft.data.sources.coco import open_coco, read_coco
from virft.data.sources.yolo import read_yolo
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace, intersection_over_union
from virft.integrations import easyr1
from virft.integrations.export import export_yolo, trl_dataset
from virft.integrations.ms_swift import make_orm
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import Answer, Label, RewardContext, Sample, ShortAnswer, Target

FOX = sample(detections((10, 10, 30.5, 40)), id="1")
NONE = sample(detections(), id="2", query="hen")
LABEL = sample(Label(text="red fox"), id="3", task="classification", query="animal")
LEFT = sample(box(0, 0, 20, 20), id="4", task="grounding", query="the left one", question="Find it.")


def only_iou(task: str, answer: Answer, target: Target) -> float:
    """IoU of the only box of each."""
    ((found, *_),) = TASKS[task].answer_boxes(answer)
    (expected,) = TASKS[task].target_boxes(target)
    return intersection_over_union(found.xyxy, expected.xyxy)


def save(folder: Path, *samples: Sample) -> Path:
    save_image(folder / "a.png")
    with StoreWriter(folder / "d") as writer:
        writer.add_image_file("a.png", folder / "a.png")
        for one in samples:
            writer.add(one)
        writer.finish(source={}, seed=0)
    return folder / "d"


def export(folder: Path, *options: str) -> int:
    return main(["export", str(folder / "d"), str(folder / "out"), *options])


def test_coco_is_read_back_with_the_same_boxes(tmp_path: Path) -> None:
    data = save(tmp_path, FOX, NONE)
    assert export(tmp_path, "--format", "coco") == 0
    skipped = Skipped()
    annotated = read_coco(open_coco(tmp_path / "out" / "annotations.json"), data, skipped=skipped)
    (image,) = annotated.images.values()
    assert image.boxes == {"fox": ((10.0, 10.0, 30.5, 40.0),)}
    assert image.file.is_file()
    assert annotated.classes == ("fox", "hen")
    assert skipped.records == []


def test_coco_has_the_areas_of_the_source_and_its_crowd_regions(tmp_path: Path) -> None:
    boxes = replace(detections((10, 10, 30, 40), (1, 2, 3, 4)), crowd=(box(0, 0, 9, 9),))
    outlined = sample(boxes, id="5", areas=(321.5, 3.0))
    save(tmp_path, outlined, sample(detections((5, 5, 10, 10)), id="6", query="hen"))
    assert export(tmp_path, "--format", "coco") == 0
    tree = json.loads((tmp_path / "out" / "annotations.json").read_text())
    found = [(one["id"], one["bbox"], one["area"], one["iscrowd"]) for one in tree["annotations"]]
    assert found == [
        (1, [10, 10, 20, 30], 321.5, 0),
        (2, [1, 2, 2, 2], 3, 0),
        (3, [0, 0, 9, 9], 81, 1),
        (4, [5, 5, 5, 5], 25, 0),
    ]


def test_yolo_is_read_back_with_the_same_boxes(tmp_path: Path) -> None:
    strange = sample(detections((0, 0, 64, 48), (1.5, 2, 3.25, 4.125)), id="5", query="no: 'ä' # 3")
    data = save(tmp_path, FOX, NONE, strange)
    assert export(tmp_path, "--format", "yolo") == 0
    assert (tmp_path / "out" / "images" / "a.png").read_bytes() == (data / "images" / "a.png").read_bytes()
    assert (tmp_path / "out" / "labels" / "a.txt").read_text().splitlines()[0] == (
        "0 0.316406250 0.520833333 0.320312500 0.625000000"
    )
    skipped = Skipped()
    annotated = read_yolo(tmp_path / "out", skipped=skipped)
    assert annotated.images["images/a.png"].boxes == {
        "fox": ((10.0, 10.0, 30.5, 40.0),),
        "no: 'ä' # 3": ((0.0, 0.0, 64.0, 48.0), (1.5, 2.0, 3.25, 4.125)),
    }
    assert annotated.classes == ("fox", "hen", "no: 'ä' # 3")
    assert skipped.records == []


def test_images_with_the_same_label_file_are_not_exported_to_yolo(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        for number, name in enumerate(("a.png", "a.jpg")):
            writer.add_image_file(name, save_image(tmp_path / name))
            writer.add(sample(id=str(number), image=f"images/{name}"))
        writer.finish(source={}, seed=0)
    with pytest.raises(DataError, match=r"images/a\.png and images/a\.jpg have the same label file labels/a\.txt"):
        export_yolo(Store(tmp_path / "d"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("format", "name"), [("coco", "COCO"), ("yolo", "YOLO")])
def test_coco_and_yolo_hold_detection_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, name: str
) -> None:
    save(tmp_path, FOX, LABEL)
    assert export(tmp_path, "--format", format) == 2
    assert (
        f"sample 3 is of classification; {name} holds detection and multiclass_detection only"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format", "options", "formats"),
    [
        ("coco", ["--template", "short"], "trl or ms-swift or easyr1 or llama-factory or lmms-eval"),
        ("yolo", ["--space", "relative_1000"], "trl or ms-swift or easyr1 or llama-factory or lmms-eval"),
        ("llama-factory", ["--thinking"], "trl or ms-swift or easyr1 or lmms-eval"),
        ("trl", ["--name", "mine"], "lmms-eval"),
        ("coco", ["--max-completion-tokens", "9"], "lmms-eval"),
    ],
)
def test_an_option_without_effect_on_the_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, options: list[str], formats: str
) -> None:
    save(tmp_path, FOX)
    assert export(tmp_path, "--format", format, *options) == 2
    message = f"{options[0]} has no effect with --format {format}; remove it, or expected --format {formats}"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_trl_rows_have_virfts_prompts(tmp_path: Path) -> None:
    save(tmp_path, FOX, LEFT)
    assert export(tmp_path, "--format", "trl", "--template", "short", "--thinking") == 0
    first, second = (json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines())
    (message,) = first["prompt"]
    assert message["content"] == [{"type": "image"}, {"type": "text", "text": "Detect fox. Think first."}]
    assert first["target"] == {"boxes": [[10, 10, 30.5, 40]]}
    assert Path(first["images"][0]).is_absolute()
    assert Path(first["images"][0]).is_file()
    assert second["prompt"][0]["content"][1]["text"] == "Find it."


@pytest.mark.parametrize("space", [BoxSpace.RELATIVE_1000, BoxSpace.ORIGINAL_PIXELS])
def test_llama_factory_targets_are_parsed_as_the_target(tmp_path: Path, space: BoxSpace) -> None:
    store = Store(save(tmp_path, FOX, NONE, LABEL, LEFT))
    assert export(tmp_path, "--format", "llama-factory", "--space", space) == 0
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["virft"]
    rows = json.loads((tmp_path / "out" / info["file_name"]).read_text())
    assert len(rows) == 4
    for row, one in zip(rows, store, strict=True):
        prompt, completion = row["messages"]
        assert prompt["content"].count("<image>") == len(row["images"]) == 1
        reading = TASKS[one.task].read_for(
            completion["content"], one, thinking=False, space=space, resized=one.target_size
        )
        assert reading.well_formed
        if TASKS[one.task].target_boxes(one.target):
            assert only_iou(one.task, reading.answer, one.target) > 0.95
        else:
            assert reading.answer == one.target


SHORT = sample(ShortAnswer(answers=("200",), kind="number"), id="5", task="short_answer", query="What is the weight?")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Return a dataset of each task."""
    folder = tmp_path_factory.mktemp("tasks")
    found = {"short_answer": Store(save(folder, SHORT))}
    for task in TASKS:
        if task != "short_answer":
            assert main(["build", "scenes", str(folder / task), "--task", task, "--questions", "6"]) == 0
            found[task] = Store(folder / task)
    return found


@pytest.mark.parametrize("task", TASKS)
def test_ground_truths_of_every_task_are_rewarded_by_the_exports_of_other_trainers(
    stores: dict[str, Store], task: str, tmp_path: Path
) -> None:
    store, how = stores[task], {"box_space": "relative_1000", "thinking": False}
    for name in ("ms-swift", "easyr1"):
        assert main(["export", str(store.folder), str(tmp_path / name), "--format", name]) == 0
    swift, easy = (
        [json.loads(line) for line in (tmp_path / name / "rows.jsonl").read_text().splitlines()]
        for name in ("ms-swift", "easyr1")
    )
    for first, second, one in zip(swift, easy, store, strict=True):
        ((message,), images, truth) = first["messages"], first["images"], first["ground_truth"]
        assert second == {"prompt": message["content"], "images": images, "answer": truth}
        assert message["content"].count("<image>") == len(images) == len(one.images)
        assert all(Path(image).is_file() for image in images)
        text = TASKS[one.task].render_for(one, space=BoxSpace.RELATIVE_1000, resized=one.target_size)
        grader = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000)
        expected = grader.grade(text, one, resized=one.target_size, context=RewardContext())
        assert expected.total > 1.9, "format and at least one part in full"
        assert make_orm(**how)()(completions=[text], ground_truth=[truth]) == [expected.total]
        (found,) = easyr1.compute_score([{"response": text, "ground_truth": truth}], **how)
        assert found == {"overall": expected.total, **expected.parts}


def test_a_trl_row_records_its_prompting_and_image_size(tmp_path: Path) -> None:
    save(tmp_path, FOX)
    assert export(tmp_path, "--format", "trl", "--space", "resized_pixels") == 0
    row = json.loads((tmp_path / "out" / "rows.jsonl").read_text())
    assert (row["box_space"], row["thinking"]) == ("resized_pixels", False)
    assert (row["image_size"], row["target_image"]) == ([64, 48], 0)


def test_a_trl_dataset_has_the_same_rows_with_images(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    data = save(tmp_path, FOX, LABEL)
    table = trl_dataset(data, template="short", thinking=False, space="relative_1000")
    assert export(tmp_path, "--format", "trl", "--template", "short") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert table.column_names == list(lines[0])
    assert [image.size for image in table[0]["images"]] == [(64, 48)]
    assert list(table["query"]) == ["fox", "animal"]
    assert table[1]["prompt"] == [{"role": "user", "content": "Which animal is this?"}]
    # a table has the same keys in every row: a missing value is None
    assert table[0]["target"] == {"boxes": [[10.0, 10.0, 30.5, 40.0]], "label": None}


def test_targets_in_pixels_of_the_resized_image_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, FOX)
    assert export(tmp_path, "--format", "llama-factory", "--space", "resized_pixels") == 2
    assert "depend on the model; expected relative_1000 or original_pixels" in capsys.readouterr().err


def test_an_existing_folder_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, FOX)
    assert export(tmp_path, "--format", "trl") == 0
    assert export(tmp_path, "--format", "trl") == 2
    assert "out: exists and is not empty; expected a new or empty folder" in capsys.readouterr().err
