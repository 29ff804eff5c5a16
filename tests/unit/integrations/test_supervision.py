"""Boxes of supervision become virft's, and those of a result return unchanged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import virft
from factories import box
from virft.errors import DataError
from virft.integrations.supervision import from_supervision
from virft.types import Detection, Detections

CORNERS = [[20.0, 20.0, 100.0, 60.0], [0.0, 0.0, 100.0, 50.0]]


def found(**changes: Any) -> Any:
    """Two boxes as the package holds them: float32 corners and confidences."""
    fields: dict[str, Any] = {
        "xyxy": np.array(CORNERS, dtype=np.float32),
        "confidence": np.array([0.5, 0.25], dtype=np.float32),
        "data": {"class_name": np.array(["fox", "Grey-Wolf"])},
    }
    return SimpleNamespace(**fields | changes)


def test_boxes_have_their_confidence_and_class_name() -> None:
    assert from_supervision(found()).items == (
        Detection(box=box(20, 20, 100, 60), confidence=0.5, label="fox"),
        Detection(box=box(0, 0, 100, 50), confidence=0.25, label="Grey-Wolf"),
    )


def test_a_query_selects_the_boxes_of_its_class() -> None:
    assert from_supervision(found(), query="grey wolf").items == (Detection(box=box(0, 0, 100, 50), confidence=0.25),)
    assert from_supervision(found(), query="wolf") == Detections()


def test_boxes_without_confidences_and_names_are_a_target() -> None:
    target = from_supervision(found(confidence=None, data={}))
    assert [(one.confidence, one.label) for one in target.items] == [(1.0, None)] * 2
    text = "<answer>[[100, 200, 500, 600], [0, 0, 500, 500]]</answer>"
    assert virft.reward(text, target, image_size=(200, 100)).parts["iou"] == 1.0


def test_no_boxes_are_no_objects() -> None:
    nothing = found(xyxy=np.empty((0, 4)), confidence=None, data={})
    assert from_supervision(nothing) == from_supervision(nothing, query="fox") == Detections()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"xyxy": np.array([[0, 0, 1, 1], [5, 5, 5, 9]])},
            {},
            r"box 1 is \[5.0, 5.0, 5.0, 9.0\]; expected finite x1 <",
        ),
        ({"xyxy": np.array([[0, 0, np.nan, 1], [5, 5, 6, 9]])}, {}, r"box 0 is \[0.0, 0.0, nan, 1.0\]"),
        ({"confidence": np.array([0.5, 1.5])}, {}, r"the confidence of box 1 is 1.5; expected a number from 0 to 1"),
        ({"data": {}}, {"query": "fox"}, r"2 boxes without class_name; expected names, or no query"),
    ],
)
def test_invalid_boxes_are_refused(changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_supervision(found(**changes), **options)


def test_the_package_itself_is_read() -> None:
    supervision = pytest.importorskip("supervision", reason="the package supervision is not installed here")
    boxes = supervision.Detections(
        xyxy=np.array(CORNERS), confidence=np.array([0.5, 0.25]), data={"class_name": np.array(["fox", "Grey-Wolf"])}
    )
    assert from_supervision(boxes) == from_supervision(found())
    assert from_supervision(boxes[boxes.confidence > 0.3]).items == from_supervision(found()).items[:1]
    assert from_supervision(supervision.Detections.empty()) == Detections()
