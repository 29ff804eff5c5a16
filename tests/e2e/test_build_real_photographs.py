"""Real photographs of many sizes become data sets, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from virft.cli.main import main
from virft.data.store import Store
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.types import Detections, FinishReason, ImageSize, Prediction


def build(data: Path, out: Path, *options: str) -> None:
    assert main(["build", "coco", str(data / "annotations.json"), str(data), str(out), *options]) == 0


def test_raccoons_are_split_into_training_and_test(shared_data: Path, tmp_path: Path) -> None:
    build(shared_data / "raccoon", tmp_path / "d", "--shots", "8", "--test-frac", "0.25")
    train, test = Store(tmp_path / "d" / "train"), Store(tmp_path / "d" / "test")
    assert (len(train), len(test)) == (8, 50)
    assert not {one.id for one in train} & {one.id for one in test}
    assert len({one.target_size for one in test}) > 5
    test.check(decode=True)


def test_all_raccoons_are_there(shared_data: Path, tmp_path: Path) -> None:
    build(shared_data / "raccoon", tmp_path / "d")
    store = Store(tmp_path / "d")
    boxes = [item for one in store if isinstance(one.target, Detections) for item in one.target.items]
    assert (len(store), len(boxes), store.card["num_skipped"]) == (200, 217, 0)


def test_blood_cells_are_queried_by_class_and_if_absent(shared_data: Path, tmp_path: Path) -> None:
    options = ("--classes", "WBC,Platelets", "--shots", "4", "--negatives-frac", "0.2")
    build(shared_data / "bccd", tmp_path / "a", *options)
    build(shared_data / "bccd", tmp_path / "b", *options)
    assert (tmp_path / "a" / "samples.jsonl").read_bytes() == (tmp_path / "b" / "samples.jsonl").read_bytes()
    assert (tmp_path / "a" / "card.json").read_bytes() == (tmp_path / "b" / "card.json").read_bytes()
    counts = Store(tmp_path / "a").card["counts"]["detection"]
    assert sum(row["questions"] - row["absent"] for row in counts.values()) == 8
    assert sum(row["absent"] for row in counts.values()) == 2


def grey_images(annotations: Path, folder: Path) -> None:
    """A uniform image of the declared size for every image of a COCO or LVIS file."""
    for image in json.loads(annotations.read_text())["images"]:
        (folder / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (image["width"], image["height"])).save(folder / image["file_name"])


@pytest.mark.parametrize(
    ("verb", "file", "classes"),
    [
        ("coco", "coco_val100/instances_val2014_100.json", "person,dog,car"),
        ("lvis", "lvis_val100/lvis_val_100.json", "vase,sock,chair"),
    ],
)
def test_coco_and_lvis_annotations_become_few_shot_sets(
    shared_data: Path, tmp_path: Path, verb: str, file: str, classes: str
) -> None:
    grey_images(shared_data / file, tmp_path / "images")
    argv = ["build", verb, str(shared_data / file), str(tmp_path / "images"), str(tmp_path / "d")]
    assert main([*argv, "--classes", classes, "--shots", "2", "--negatives-frac", "0.25"]) == 0
    card = Store(tmp_path / "d").card
    assert card["source"]["kind"] == verb
    rows = card["counts"]["detection"]
    assert {name: row["questions"] - row["absent"] for name, row in rows.items()} == dict.fromkeys(
        classes.split(","), 2
    )


def test_without_its_images_a_dataset_is_refused_with_the_first_that_is_missing(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = shared_data / "coco_val100" / "instances_val2014_100.json"
    (tmp_path / "images").mkdir()
    assert main(["build", "coco", str(annotations), str(tmp_path / "images"), str(tmp_path / "d")]) == 2
    assert "no samples came out of the source; nothing was written (first of" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("verb", "file", "classes"),
    [
        ("coco", "coco_val100/instances_val2014_100.json", "@coco-novel-15"),
        ("lvis", "lvis_val100/lvis_val_100.json", "vase,sock,chair"),
    ],
)
def test_annotations_alone_are_enough_to_score_and_to_export(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, file: str, classes: str
) -> None:
    grey_images(shared_data / file, tmp_path / "images")
    argv = ["build", verb, str(shared_data / file)]
    options = ["--classes", classes, "--negatives-frac", "0.2", "--test-frac", "0.5"]
    assert main([*argv, str(tmp_path / "images"), str(tmp_path / "whole"), *options]) == 0
    assert main([*argv, "-", str(tmp_path / "bare"), *options]) == 0
    bare, whole = (Store(tmp_path / name / "test") for name in ("bare", "whole"))
    assert bare.hash == whole.hash, "scores on both can be compared"
    assert (bare.has_images, whole.has_images) == (False, True)

    capsys.readouterr()
    assert main(["check", str(bare.folder)]) == 0
    assert "built without images" in capsys.readouterr().out
    assert main(["export", str(bare.folder), str(tmp_path / "coco"), "--format", "coco"]) == 0
    card = PredictionsCard(
        model="none",
        data=str(whole.folder),
        data_hash=whole.hash,
        num_samples=len(whole),
        box_space=BoxSpace.RELATIVE_1000,
        thinking=False,
        settings={},
    )
    nothing = (
        Prediction(sample_id=one.id, text="<answer>No Objects</answer>", finish_reason=FinishReason.STOP)
        for one in whole
    )
    sized = (SizedPrediction(one, ImageSize(28, 28)) for one in nothing)
    assert main(["score", str(write_predictions(tmp_path / "p", card, sized)), str(bare.folder)]) == 0
    for refused in (
        ["preview", str(bare.folder)],
        ["export", str(bare.folder), str(tmp_path / "trl"), "--format", "trl"],
        ["predict", "virft-tiny", str(bare.folder), str(tmp_path / "q")],
    ):
        assert main(refused) == 2
        assert "was built without images, so it is for scoring and export only" in capsys.readouterr().err


def test_validation_is_neither_training_nor_test(shared_data: Path, tmp_path: Path) -> None:
    build(shared_data / "raccoon", tmp_path / "d", "--shots", "8", "--test-frac", "0.25", "--validation-frac", "0.1")
    parts = {part: {one.id for one in Store(tmp_path / "d" / part)} for part in ("train", "validation", "test")}
    assert {part: len(inside) for part, inside in parts.items()} == {"train": 8, "validation": 20, "test": 50}
    assert len(set.union(*parts.values())) == 78


def test_duplicate_images_of_the_raccoons_are_reported(shared_data: Path, tmp_path: Path) -> None:
    build(shared_data / "raccoon", tmp_path / "d", "--test-frac", "0.3")
    duplicates = Store(tmp_path / "d" / "test").card["source"]["duplicate_images"]
    assert ["train/raccoon-116.jpg", "test/raccoon-11.jpg"] in duplicates  # the same photograph, another file
    assert len(duplicates) == 5
