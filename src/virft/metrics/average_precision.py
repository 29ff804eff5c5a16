"""Average precision (AP, mAP) over all questions, by the rules of the reference evaluators (COCO, LVIS).

If all confidences differ, the numbers equal those of pycocotools and lvis-api
(``tests/unit/metrics/test_average_precision.py``). Those evaluators rank boxes of equal confidence by the ids of their
images, so the numbers change with the names of the files, by up to 0.05 if all are equal. Here AP is the mean over
orders of the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from virft.metrics.box_matching import (
    AREA_RANGES,
    MAX_BOXES,
    BoxQuestion,
    ClassMatches,
    match_class,
    precision_at_recalls,
    recall_of,
)
from virft.metrics.detection import COCO_IOU_THRESHOLDS

__all__ = ["COCO_NAMES", "RECALL_NAMES", "AveragePrecision", "BoxQuestion", "average_precision"]

COCO_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
RECALL_NAMES = ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
LVIS_MAX_DETECTIONS = 300
FREQUENCIES = {"r": "ap_rare", "c": "ap_common", "f": "ap_frequent"}


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
    (LVIS: 300 per image) count. If boxes on different images have equal scores, AP is the mean over ``ORDERS`` orders
    of the images (the same ones for the same boxes), so their names have no effect; the boxes of a question stay in
    text order. An IoU counts as reaching a threshold up to rounding (``IOU_TOLERANCE``). No targets at all: no values.
    Source: COCO (arXiv 1405.0312) and LVIS (arXiv 1908.03195) evaluation.

    >>> found = BoxQuestion(image="a", label="fox", boxes=[(0, 0, 9, 9)], scores=[1.0], targets=[(0, 0, 9, 10)])
    >>> average_precision([found]).values["ap50"]
    1.0
    """
    if not any(one.targets for one in questions):
        return AveragePrecision(values={})
    most = MAX_BOXES
    if frequency is not None:
        questions, most = _best_of_each_image(questions, LVIS_MAX_DETECTIONS), LVIS_MAX_DETECTIONS
    number = {image: at for at, image in enumerate(dict.fromkeys(one.image for one in questions))}
    by_label: dict[str, list[BoxQuestion]] = {}
    for one in questions:
        by_label.setdefault(one.label, []).append(one)
    matches = {
        name: {label: match_class(held, number, areas, most) for label, held in sorted(by_label.items())}
        for name, areas in AREA_RANGES.items()
    }
    once = np.ones(len(number))
    precision = {
        name: {label: found for label, one in by.items() if (found := precision_at_recalls(one, once)) is not None}
        for name, by in matches.items()
    }
    overall = precision["all"].values()
    sizes = [name for name in AREA_RANGES if name != "all"]
    values = {
        "ap": _mean(overall),
        "ap50": _mean(one[COCO_IOU_THRESHOLDS.index(0.5)] for one in overall),
        "ap75": _mean(one[COCO_IOU_THRESHOLDS.index(0.75)] for one in overall),
        **{f"ap_{size}": _mean(precision[size].values()) for size in sizes},
        **{f"ar{most}": _mean_recall(matches["all"], most) for most in ((1, 10, 100) if most == 100 else (most,))},
        **{f"ar_{size}": _mean_recall(matches[size], most) for size in sizes},
    }
    if frequency is not None:
        letters = {label: frequency[label] for label in precision["all"]}
        for letter, name in FREQUENCIES.items():
            values[name] = _mean(found for label, found in precision["all"].items() if letters[label] == letter)
    return AveragePrecision(
        values={name: value for name, value in values.items() if value is not None},
        by_class={label: float(np.mean(found)) for label, found in precision["all"].items()},
    )


def _best_of_each_image(questions: Sequence[BoxQuestion], most: int) -> list[BoxQuestion]:
    """The questions with the boxes of each image that have the highest scores, at most ``most`` of all classes."""
    by_image: dict[str, list[tuple[int, int]]] = {}
    for number, one in enumerate(questions):
        by_image.setdefault(one.image, []).extend((number, index) for index in range(len(one.boxes)))
    chosen: list[list[int]] = [[] for _ in questions]
    for boxes in by_image.values():
        best = sorted(boxes, key=lambda place: -questions[place[0]].scores[place[1]])[:most]
        for number, index in sorted(best):
            chosen[number].append(index)
    return [
        replace(
            one,
            boxes=[one.boxes[index] for index in kept],
            scores=[one.scores[index] for index in kept],
            ious=None if one.ious is None else [one.ious[index] for index in kept],
        )
        for one, kept in zip(questions, chosen, strict=True)
    ]


def _mean(found: Iterable[NDArray[np.float64]]) -> float | None:
    """Mean of all numbers of arrays of one shape; None if there are none."""
    arrays = list(found)
    return float(np.mean(arrays)) if arrays else None


def _mean_recall(matches: Mapping[str, ClassMatches], most: int) -> float | None:
    return _mean(found for one in matches.values() if (found := recall_of(one, most)) is not None)
