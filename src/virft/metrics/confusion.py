"""Confusion matrix of detection: which class was predicted for the objects of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from virft.geometry.boxes import XYXY, iou_matrix, match_greedily

NOTHING = ""
"""Class of a predicted box that matches no target, and prediction for a target that no box matches."""


class LabelledBox(NamedTuple):
    """A box of a class, in pixels. ``confidence``: 1 for a target."""

    label: str
    box: XYXY
    confidence: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusionMatrix:
    """``labels``: the classes, those with the most targets first. ``counts``: (target, predicted) -> number.

    A target that is missed has the predicted class ``NOTHING``; a false positive has the target class ``NOTHING``.
    """

    labels: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]


def confusion_matrix(
    images: Iterable[tuple[Sequence[LabelledBox], Sequence[LabelledBox]]], iou_threshold: float = 0.5
) -> ConfusionMatrix:
    """Count (target class, predicted class) over images, each given by its targets and its predicted boxes.

    Boxes are matched within their own class first, so the diagonal holds the hits of F1; then the others are matched
    with the remaining targets of any class. Both matchings are greedy by confidence (``match_greedily``).

    >>> cat = LabelledBox("cat", (0, 0, 9, 9))
    >>> confusion_matrix([([cat], [LabelledBox("dog", (0, 0, 9, 8), 0.5)])]).counts
    {('cat', 'dog'): 1}
    """
    counts: Counter[tuple[str, str]] = Counter()
    labels: Counter[str] = Counter()
    for targets, predicted in images:
        labels.update({one.label: 0 for one in predicted})
        labels.update(one.label for one in targets)
        counts.update(_match(targets, predicted, iou_threshold))
    order = sorted(labels, key=lambda label: (-labels[label], label))
    return ConfusionMatrix(labels=tuple(order), counts=dict(counts))


def _match(
    targets: Sequence[LabelledBox], predicted: Sequence[LabelledBox], iou_threshold: float
) -> list[tuple[str, str]]:
    """Return (target class, predicted class) of every target and of every predicted box without a target."""
    if not targets or not predicted:
        return [(one.label, NOTHING) for one in targets] + [(NOTHING, one.label) for one in predicted]
    ious = iou_matrix([one.box for one in predicted], [one.box for one in targets])
    order = sorted(range(len(predicted)), key=lambda row: -predicted[row].confidence)
    same = [
        [iou if targets[column].label == predicted[row].label else 0.0 for column, iou in enumerate(values)]
        for row, values in enumerate(ious)
    ]
    pairs = match_greedily(same, order, iou_threshold)
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    others = [[0.0 if column in columns else iou for column, iou in enumerate(values)] for values in ious]
    pairs += match_greedily(others, [row for row in order if row not in rows], iou_threshold)
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    return [
        *((targets[column].label, predicted[row].label) for row, column in pairs),
        *((one.label, NOTHING) for column, one in enumerate(targets) if column not in columns),
        *((NOTHING, one.label) for row, one in enumerate(predicted) if row not in rows),
    ]
