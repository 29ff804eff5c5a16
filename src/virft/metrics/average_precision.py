"""Average precision (AP, mAP) over all questions, by the rules of the reference evaluators (COCO, LVIS).

Computed by faster-coco-eval, which equals pycocotools and lvis-api (``tests/unit/metrics/test_average_precision.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from virft.geometry.boxes import XYXY

COCO_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
RECALL_NAMES = ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
LVIS_MAX_DETECTIONS = 300
FREQUENCIES = {"r": "ap_rare", "c": "ap_common", "f": "ap_frequent"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxQuestion:
    """Predicted and target boxes of one class on one image, in pixels."""

    image: str
    """Name of the image."""
    label: str
    """Name of the class."""
    boxes: Sequence[XYXY]
    """Predicted boxes in text order."""
    scores: Sequence[float]
    """Score of each predicted box, by which boxes are ranked."""
    targets: Sequence[XYXY]
    """Ground-truth boxes."""
    areas: Sequence[float] = ()
    """Area of each target object in square pixels; empty: areas of the boxes."""
    crowd: Sequence[XYXY] = ()
    """Regions in which a predicted box is neither a hit nor a false positive."""
    exhaustive: bool = True
    """Whether all objects of the class are labelled; if not, a box without a match is ignored (LVIS only)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragePrecision:
    """The evaluator's metrics by name, without those of no objects, and ``ap`` by class."""

    values: Mapping[str, float]
    by_class: Mapping[str, float] = field(default_factory=dict)


def average_precision(
    questions: Sequence[BoxQuestion], *, frequency: Mapping[str, str] | None = None
) -> AveragePrecision:
    """Return COCO's 12 metrics over the classes with targets; with ``frequency`` (class -> r, c, f) LVIS's instead.

    A class that is not queried on an image is neither found nor missed there. At most 100 boxes per image and class
    (LVIS: 300 per image) count. Boxes with equal scores stay in the order of the text, and images in that of the
    questions. No targets at all: no values. Source: COCO (arXiv 1405.0312) and LVIS (arXiv 1908.03195) evaluation.

    >>> found = BoxQuestion(image="a", label="fox", boxes=[(0, 0, 9, 9)], scores=[1.0], targets=[(0, 0, 9, 10)])
    >>> average_precision([found]).values["ap50"]
    1.0
    """
    if not any(one.targets for one in questions):
        return AveragePrecision(values={})
    from faster_coco_eval import COCO, COCOeval_faster

    dataset, detections = _as_coco(questions, frequency)
    truth = COCO(dataset)
    lvis = frequency is not None
    # No box anywhere: the evaluator refuses an empty list, so it gets one that counts for nothing.
    found = truth.loadRes(detections or [_no_box(dataset)])
    evaluator = COCOeval_faster(truth, found, "bbox", print_function=_silent, lvis_style=lvis)
    if lvis:
        evaluator.params.maxDets = [LVIS_MAX_DETECTIONS]
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    names = {label: number for number, label in enumerate(_labels(questions))}
    precision = evaluator.eval["precision"]  # [IoU threshold, recall, class, area range, most boxes]
    by_class = {label: _mean(precision[:, :, number, 0, -1]) for label, number in names.items()}
    return AveragePrecision(
        values=_lvis_values(evaluator.all_stats) if lvis else _coco_values(evaluator.stats),
        by_class={label: value for label, value in by_class.items() if value is not None},
    )


def _as_coco(
    questions: Sequence[BoxQuestion], frequency: Mapping[str, str] | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The questions as a COCO data set, and their answers as COCO results."""
    labels = {label: number for number, label in enumerate(_labels(questions), start=1)}
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for one in questions:
        image = images.setdefault(
            one.image, {"id": len(images) + 1, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        )
        place = {"image_id": image["id"], "category_id": labels[one.label]}
        if not one.exhaustive:
            image["not_exhaustive_category_ids"].append(labels[one.label])
        if not one.targets:
            image["neg_category_ids"].append(labels[one.label])
        areas = one.areas or [_area(box) for box in one.targets]
        rows = [(box, area, 0) for box, area in zip(one.targets, areas, strict=True)]
        for box, area, crowd in [*rows, *((box, _area(box), 1) for box in one.crowd)]:
            row = {"id": len(annotations) + 1, "bbox": _xywh(box), "area": area, "iscrowd": crowd, "ignore": crowd}
            annotations.append(place | row)
        for box, score in zip(one.boxes, one.scores, strict=True):
            detections.append(place | {"bbox": _xywh(box), "score": score})
    categories = [
        {"id": number, "name": label, **({"frequency": frequency[label]} if frequency is not None else {})}
        for label, number in labels.items()
    ]
    dataset = {"images": list(images.values()), "categories": categories, "annotations": annotations}
    return dataset, detections if frequency is None else _best_of_each_image(detections, LVIS_MAX_DETECTIONS)


def _best_of_each_image(detections: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The boxes of each image with the highest scores, at most ``most`` of all classes."""
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in detections:
        by_image.setdefault(one["image_id"], []).append(one)
    best = (sorted(held, key=lambda one: -one["score"])[:most] for held in by_image.values())
    return [one for held in best for one in held]


def _labels(questions: Sequence[BoxQuestion]) -> list[str]:
    return sorted({one.label for one in questions})


def _no_box(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A box of no area far outside."""
    first = dataset["annotations"][0]
    return {"image_id": first["image_id"], "category_id": first["category_id"], "bbox": [-9, -9, 0, 0], "score": 0.0}


def _coco_values(stats: Sequence[float]) -> dict[str, float]:
    names = (*COCO_NAMES, *RECALL_NAMES)
    return {name: float(value) for name, value in zip(names, stats[: len(names)], strict=True) if value >= 0}


def _lvis_values(stats: Sequence[float]) -> dict[str, float]:
    names = (*COCO_NAMES, "ar300", None, None, "ar_small", "ar_medium", "ar_large", *FREQUENCIES.values())
    last = [*stats[: len(names) - len(FREQUENCIES)], *stats[-len(FREQUENCIES) :]]
    return {name: float(value) for name, value in zip(names, last, strict=True) if name and value >= 0}


def _mean(precision: Any) -> float | None:
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else None


def _xywh(box: XYXY) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _area(box: XYXY) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _silent(*_: object) -> None:
    """Replaces the evaluator's printing of its table."""
