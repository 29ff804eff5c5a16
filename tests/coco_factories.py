"""COCO and LVIS files as box questions, and synthetic results for them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from virft.geometry.boxes import xywh_to_xyxy
from virft.metrics.average_precision import BoxQuestion

LVIS_NAMES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APl": "ap_large",
    "APr": "ap_rare",
    "APc": "ap_common",
    "APf": "ap_frequent",
    "AR@300": "ar300",
    "ARs@300": "ar_small",
    "ARm@300": "ar_medium",
    "ARl@300": "ar_large",
}
"""lvis-api's metric names -> virft's."""


def questions_of(annotations: Path, results: list[dict[str, Any]]) -> list[BoxQuestion]:
    """A question for each image and class with a target or a prediction; with LVIS, only for the annotated classes."""
    truth = json.loads(annotations.read_text())
    pairs: dict[tuple[int, int], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for one in truth["annotations"]:
        held = pairs[one["image_id"], one["category_id"]]
        if one.get("iscrowd"):
            held["crowd"].append(xywh_to_xyxy(tuple(one["bbox"])))
        else:
            held["targets"].append(xywh_to_xyxy(tuple(one["bbox"])))
            held["areas"].append(one["area"])
    images = {one["id"]: one for one in truth["images"]}
    if "neg_category_ids" in truth["images"][0]:
        known = {pair: images[pair[0]] for pair in pairs}
        known |= {(key, label): one for key, one in images.items() for label in one["neg_category_ids"]}
        results = [row for row in results if (row["image_id"], row["category_id"]) in known]
    for row in results:
        held = pairs[row["image_id"], row["category_id"]]
        held["boxes"].append(xywh_to_xyxy(tuple(row["bbox"])))
        held["scores"].append(row["score"])
    return [
        BoxQuestion(
            image=str(image),
            label=f"{label:04d}",
            exhaustive=label not in images[image].get("not_exhaustive_category_ids", ()),
            **{name: held[name] for name in ("boxes", "scores", "targets", "areas", "crowd")},
        )
        for (image, label), held in sorted(pairs.items())
    ]


def perturbed(annotations: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Results made from the ground truth: moved, dropped, renamed and additional boxes."""
    truth = json.loads(annotations.read_text())
    rng = np.random.default_rng(seed)
    names = [category["id"] for category in truth["categories"]]
    results = []
    for one in truth["annotations"]:
        for _ in range(int(rng.integers(0, 4))):
            x, y, w, h = one["bbox"]
            dx, dy, dw, dh = rng.normal(0, 0.08, 4) * [w, h, w, h]
            label = int(rng.choice(names)) if rng.random() < 0.1 else one["category_id"]
            box = [float(x + dx), float(y + dy), float(max(1, w + dw)), float(max(1, h + dh))]
            score = float(rng.choice([1.0, 0.75, 0.5, rng.random()]))
            results.append({"image_id": one["image_id"], "category_id": label, "bbox": box, "score": score})
    return results
