"""Predictions that another engine writes are scored, to the last digit of pycocotools where confidences differ."""

from __future__ import annotations

import json
import runpy
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import box, detections, sample
from virft.cli.main import main
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.evaluation.score import score_predictions
from virft.types import LabelledDetections

EXAMPLE = Path(__file__).parents[3] / "examples" / "05_score_another_engine.py"
SIZE = (64, 48)


def test_files_written_as_in_the_example_are_scored(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", SIZE))
        writer.add(sample(detections((0, 0, 32, 24)), id="fox", image=path))
        writer.add(sample(detections(), id="hen", image=path, query="hen"))
        writer.add(sample(box(0, 0, 32, 24), id="box", image=path, query="the box", task="grounding"))
        writer.finish(source={}, seed=0)
    texts = {"fox": "[[0, 0, 500, 500]]", "hen": "No Objects", "the box": "(0,0),(500,500)"}
    example = runpy.run_path(str(EXAMPLE))
    example["write_predictions"](
        tmp_path / "d", tmp_path / "p", lambda image, query: f"<answer>{texts[query]}</answer>"
    )
    detection, grounding = score_predictions(tmp_path / "p" / "predictions.jsonl", Store(tmp_path / "d"))
    assert (detection.values["f1"], detection.values["ap"], grounding.values["box_miou"]) == (1.0, 1.0, 1.0)


PUBLISHED = {
    "ap": 0.505, "ap50": 0.697, "ap75": 0.573, "ap_small": 0.586, "ap_medium": 0.519, "ap_large": 0.501,
    "ar1": 0.387, "ar10": 0.594, "ar100": 0.595, "ar_small": 0.640, "ar_medium": 0.566, "ar_large": 0.564,
}  # fmt: skip
"""Printed by pycocotools for the example results of COCO on 100 images."""


@pytest.mark.parametrize("differ", [False, True], ids=["as published", "confidences that differ"])
@pytest.mark.parametrize("crowds", [True, False], ids=["COCO", "Padilla"])
@pytest.mark.parametrize(
    "per_image",
    [[], ["--per-image"], ["--per-image", "--max-classes-per-question", "20"]],
    ids=["a class", "an image", "20 classes"],
)
def test_text_answers_give_the_published_numbers(
    shared_data: Path, tmp_path: Path, per_image: list[str], crowds: bool, differ: bool
) -> None:
    folder = shared_data / "coco_val100"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    if not crowds:  # Padilla's toolkit has neither crowds nor areas of outlines: published as 0.503647
        truth["annotations"] = [one for one in truth["annotations"] if not one["iscrowd"]]
        for one in truth["annotations"]:
            one["area"] = one["bbox"][2] * one["bbox"][3]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    data = tmp_path / "data"
    command = ["build", "coco", str(tmp_path / "truth.json"), "-", str(data), "--protocol", "all"]
    assert main([*command, *per_image]) == 0
    path = write_answers(Store(data), truth, results, tmp_path / "answers", differ=differ)
    (scores,) = score_predictions(path, Store(data))
    names = {name: value for name, value in scores.values.items() if name in PUBLISHED}
    if crowds:
        assert {name: round(value, 3) for name, value in names.items()} == PUBLISHED
    expected = 0.504581 if crowds else 0.503647
    # 42 of 734 confidences are equal to others: the mean over orders is not exactly the order of the image ids.
    assert names["ap"] == pytest.approx(expected, abs=1e-6 if differ else 1e-5)


def write_answers(
    store: Store, truth: dict[str, Any], results: list[dict[str, Any]], out: Path, *, differ: bool
) -> Path:
    """Write the results as text answers, in pixels; ``differ``: with equal confidences in the order of the images."""
    image_of = {one["file_name"]: one["id"] for one in truth["images"]}
    label_of = {one["id"]: one["name"] for one in truth["categories"]}
    boxes: dict[tuple[int, str], list[tuple[list[float], float]]] = defaultdict(list)
    for number, one in enumerate(sorted(results, key=lambda one: one["image_id"])):
        x, y, width, height = one["bbox"]
        corners = [round(value, 6) for value in (x, y, x + width, y + height)]
        confidence = one["score"] - (1e-9 * number if differ else 0.0)
        boxes[one["image_id"], label_of[one["category_id"]]].append((corners, confidence))
    out.mkdir()
    with (out / "predictions.jsonl").open("w") as file:
        for one in store:
            image = image_of[Path(one.images[0]).name]
            if isinstance(one.target, LabelledDetections):
                labels = {label: f", 'Label': '{label}'" for label in one.target.classes}
            else:
                labels = {one.query: ""}
            found = [
                f"{{'Position': {corners}{written}, 'Confidence': {confidence:.12f}}}"
                for label, written in labels.items()
                for corners, confidence in boxes[image, label]
            ]
            text = f"<answer>{'[' + ', '.join(found) + ']' if found else 'No Objects'}</answer>"
            record = {"sample_id": one.id, "text": text, "finish_reason": "stop", "resized": [1, 1]}
            file.write(json.dumps(record) + "\n")
    card = {
        "schema_version": 1,
        "model": "fakebbox100",
        "data": "coco_val100",
        "data_hash": store.hash,
        "num_samples": len(store),
        "box_space": "original_pixels",
        "thinking": False,
        "settings": {},
    }
    (out / "card.json").write_text(json.dumps(card))
    return out / "predictions.jsonl"
