"""Curves over the confidence and the confusion matrix of a task with boxes."""

from __future__ import annotations

from collections.abc import Sequence

from virft.metrics.box_curves import box_curves
from virft.metrics.confusion import LabelledBox, confusion_matrix
from virft.report.render.reported import BoxDiagnostics
from virft.tasks import TASKS
from virft.types import JoinedPrediction


def diagnose_boxes(task: str, joined: Sequence[JoinedPrediction], *, num_invalid: int) -> BoxDiagnostics | None:
    """Return curves and confusion matrix of the exhaustively annotated questions.

    ``num_invalid``: elements of the answers that are no boxes. None for a task whose answers are not boxes of classes.
    """
    row = TASKS[task]
    if row.boxes is None or row.has_points or (row.class_of is None and row.boxes.labels_of_target is None):
        return None
    confidences: list[float] = []
    hits: list[bool] = []
    num_targets = 0
    images: dict[str, tuple[list[LabelledBox], list[LabelledBox]]] = {}
    for one in joined:
        if not one.sample.exhaustive:
            continue
        boxes = row.target_boxes(one.sample.target)
        marked = [one for one in row.answer_boxes(one.reading.answer, one.sample.target) if not one.is_ignored]
        num_targets += len(boxes)
        confidences += [found.confidence for found in marked]
        hits += [found.is_hit for found in marked]
        targets, predicted = images.setdefault(one.image, ([], []))
        # Boxes without a label of their own are of the class of their question.
        label = row.class_of(one.sample) if row.class_of is not None else ""
        labels = row.target_labels(one.sample.target)
        targets += [LabelledBox(own or label, box.xyxy) for box, own in zip(boxes, labels, strict=True)]
        predicted += [LabelledBox(found.label or label, found.box.xyxy, found.confidence) for found in marked]
    return BoxDiagnostics(
        curves=box_curves(confidences, hits, num_targets=num_targets, num_invalid=num_invalid),
        confusion=confusion_matrix(images.values()),
    )
