"""Boxes of several classes, split into the questions about one class each that they answer."""

from __future__ import annotations

from typing import NamedTuple

from virft.text.labels import normalize_label, normalize_name
from virft.types import Detections, LabelledDetections


class ClassBoxes(NamedTuple):
    """Boxes of one class of a question about several."""

    label: str | None
    """Class name as the question has it; None for the predictions that name none of its classes."""
    answer: Detections
    """Predicted boxes of the class. The invalid elements of the answer are with label None."""
    target: Detections
    """Target boxes and crowd regions of the class."""
    places: tuple[int, ...]
    """Index of each predicted box in the items of the whole answer."""
    target_places: tuple[int, ...]
    """Index of each target box in the items of the whole target."""


def split_by_class(answer: LabelledDetections, target: LabelledDetections) -> list[ClassBoxes]:
    """Split answer and target by class: one entry for each class of the question, then one for all other predictions.

    Labels are compared after ``normalize_label``. A target without class names, such as one that is written like an
    answer, is about those of its boxes. The last entry has the label None and no target; it is omitted if
    every prediction is a box of a class of the question.

    >>> from virft.types import Box, Detection
    >>> found = tuple(Detection(box=Box(x1=0, y1=0, x2=2, y2=2), label=label) for label in ("Cat", "cow"))
    >>> parts = split_by_class(LabelledDetections(items=found), LabelledDetections(classes=("cat", "dog")))
    >>> [(part.label, part.places) for part in parts]
    [('cat', (0,)), ('dog', ()), (None, (1,))]
    """
    classes = target.classes or tuple(dict.fromkeys(item.label or "" for item in target.items))
    names = {normalize_name(label): label for label in classes}
    # Model output is not cached, but an answer repeats its labels.
    found = {label: names.get(normalize_label(label)) for label in {item.label or "" for item in answer.items}}
    places: dict[str | None, list[int]] = {label: [] for label in (*classes, None)}
    for place, item in enumerate(answer.items):
        places[found[item.label or ""]].append(place)
    target_places: dict[str | None, list[int]] = {label: [] for label in (*classes, None)}
    for place, item in enumerate(target.items):
        target_places[item.label].append(place)
    return [
        ClassBoxes(
            label=label,
            answer=Detections(
                items=tuple(answer.items[place] for place in own), invalid=answer.invalid if label is None else ()
            ),
            target=Detections(
                items=tuple(target.items[place] for place in target_places[label]),
                crowd=tuple(region.box for region in target.crowd if region.label == label),
            ),
            places=tuple(own),
            target_places=tuple(target_places[label]),
        )
        for label, own in places.items()
        if label is not None or own or answer.invalid
    ]
