"""A COCO file that became a dataset and was exported again gives the metrics of the original file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coco_factories import perturbed
from virft.cli.main import main
from virft.data.store import Store
from virft.types import Detections

pycocotools_coco = pytest.importorskip("pycocotools.coco")
pycocotools_eval = pytest.importorskip("pycocotools.cocoeval")


def metrics(annotations: Path, results: list[dict[str, Any]]) -> list[float]:
    """The twelve numbers of pycocotools; ``results`` name their image and class."""
    truth = json.loads(annotations.read_text())
    images = {Path(one["file_name"]).name: one["id"] for one in truth["images"]}
    classes = {one["name"]: one["id"] for one in truth["categories"]}
    rows = [row | {"image_id": images[row["image"]], "category_id": classes[row["class"]]} for row in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = pycocotools_coco.COCO(str(annotations))
        evaluation = pycocotools_eval.COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def named_results(annotations: Path) -> list[dict[str, Any]]:
    """Moved, dropped, renamed and additional boxes, each with another confidence, by names of image and class."""
    truth = json.loads(annotations.read_text())
    images = {one["id"]: Path(one["file_name"]).name for one in truth["images"]}
    classes = {one["id"]: one["name"] for one in truth["categories"]}
    rows = perturbed(annotations)
    scores = np.random.default_rng(0).permutation(len(rows)) / len(rows)
    return [
        {"image": images[row["image_id"]], "class": classes[row["category_id"]], "bbox": row["bbox"], "score": score}
        for row, score in zip(rows, scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("raccoon/annotations.json", "raccoon"),
        ("bccd/annotations.json", "bccd"),
        ("coco_val100/instances_val2014_100.json", "-"),
    ],
)
def test_an_exported_dataset_has_the_average_precision_of_its_coco_file(
    shared_data: Path, tmp_path: Path, file: str, images: str
) -> None:
    original = shared_data / file
    folder = "-" if images == "-" else str(shared_data / images)
    assert main(["build", "coco", str(original), folder, str(tmp_path / "d"), "--protocol", "all", "--link"]) == 0
    assert main(["export", str(tmp_path / "d"), str(tmp_path / "out"), "--format", "coco"]) == 0
    results = named_results(original)
    assert len(results) > 100
    expected = metrics(original, results)
    assert expected[0] > 0.1
    assert metrics(tmp_path / "out" / "annotations.json", results) == pytest.approx(expected, abs=1e-9)


def test_a_dataset_exported_to_yolo_is_built_again_with_the_same_boxes(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "raccoon"
    assert main(["build", "coco", str(source / "annotations.json"), str(source), str(tmp_path / "d")]) == 0
    assert main(["export", str(tmp_path / "d"), str(tmp_path / "yolo"), "--format", "yolo"]) == 0
    assert main(["build", "yolo", str(tmp_path / "yolo"), str(tmp_path / "again")]) == 0

    def boxes(folder: Path) -> dict[str, tuple[tuple[float, ...], ...]]:
        targets = {Path(one.images[0]).name: one.target for one in Store(folder)}
        assert all(isinstance(target, Detections) for target in targets.values())
        return {name: tuple(item.box.xyxy for item in target.items) for name, target in targets.items()}

    assert boxes(tmp_path / "again") == boxes(tmp_path / "d")
