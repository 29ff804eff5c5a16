"""Targets and predictions as shapes on an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factories import box, detections
from virft.geometry.points import point_target
from virft.report.render.page_images import PageImage
from virft.report.render.panels import font_size, make_panel
from virft.types import Box, Detection, Detections, ImageSize, Label, LabelledDetections, Point, Points, Unreadable

IMAGE = PageImage(id="image-0", size=ImageSize(180, 90))


def shapes(target: Any, answer: Any, *, task: str = "detection") -> list[tuple[str, str]]:
    return [(one.kind, one.text) for one in make_panel(IMAGE, task, target, answer, alt_text="").shapes]


def test_hits_and_misses_are_distinguished_and_have_their_confidence() -> None:
    answer = Detections(
        items=(Detection(box=box(0, 0, 10, 10), confidence=0.9), Detection(box=box(50, 50, 60, 60), confidence=0.25))
    )
    assert shapes(detections((0, 0, 10, 9)), answer) == [("target", ""), ("hit", "0.90"), ("miss", "0.25")]


def test_a_shape_has_the_position_and_size_of_its_box() -> None:
    (shape,) = make_panel(IMAGE, "detection", Detections(), detections((1, 2, 4, 6.25)), alt_text="a fox").shapes
    assert (shape.x, shape.y, shape.width, shape.height) == (1, 2, 3, 4.2)


def test_points_are_circles_around_their_place() -> None:
    target, answer = point_target([box(0, 0, 20, 20)]), Points(items=(Point(10, 10), Point(100, 50)))
    first, hit, miss = make_panel(IMAGE, "pointing", target, answer, alt_text="").shapes
    assert (first.kind, first.radius, first.width) == ("target", 0, 20)
    assert (hit.kind, miss.kind) == ("hit", "miss")
    assert hit.radius == pytest.approx(font_size(IMAGE.size) / 4, abs=0.05)
    assert (hit.x + hit.width / 2, hit.y + hit.height / 2) == pytest.approx((10, 10), abs=0.1)


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        (box(0, 0, 10, 5), ["target", "hit"]),
        (box(0, 0, 10, 4), ["target", "miss"]),
        (Unreadable(reason=""), ["target"]),
    ],
)
def test_a_grounding_box_is_a_hit_from_an_iou_of_half(answer: Box | Unreadable, kinds: list[str]) -> None:
    # 50 and 40 pixels of 100
    assert [kind for kind, _ in shapes(box(0, 0, 10, 10), answer, task="grounding")] == kinds


def test_labels_and_empty_answers_have_no_shapes() -> None:
    assert shapes(Label(text="a"), Label(text="b"), task="classification") == []
    assert shapes(Detections(), Detections()) == []
    assert shapes(None, Detections()) == []


def test_outlines_that_decide_about_points_are_drawn() -> None:
    triangle = (0.0, 0.0, 20.0, 0.0, 20.0, 20.0)
    target = point_target([box(0, 0, 20, 20), box(30, 0, 50, 20)], outlines=[(triangle,), ()])
    panel = make_panel(IMAGE, "pointing", target, Points(items=()), alt_text="")
    assert panel.outlines == ("0.0 0.0 20.0 0.0 20.0 20.0",)


def test_a_label_that_would_end_at_the_edge_of_the_image_ends_at_its_box() -> None:
    # font size 10: eight letters from 2 pixels right of 129 on would end at 180.6, outside of 180
    (shape,) = make_panel(
        IMAGE, "detection", None, Detections(items=(Detection(box=box(129, 40, 160, 60)),)), alt_text="", label="fox"
    ).shapes
    assert (shape.text, shape.text_x, shape.text_ends) == ("fox 1.00", 160, True)


def test_the_font_size_grows_with_the_image() -> None:
    assert make_panel(IMAGE, "detection", None, Detections(), alt_text="").font_size == 10
    # 270 pixels high: as wide as 360 in a panel of 4:3
    assert font_size(ImageSize(180, 270)) == 20


def test_predicted_boxes_have_class_and_confidence_inside_the_image() -> None:
    answer = Detections(
        items=tuple(Detection(box=box(*corners), confidence=0.5) for corners in ((0, 0, 9, 9), (150, 40, 170, 60)))
    )
    first, second = make_panel(IMAGE, "detection", Detections(), answer, alt_text="", label="fox").shapes
    # font size 10: the label of a box at the upper edge is inside the box, else above it
    assert (first.text, first.text_x, first.text_y, first.text_ends) == ("fox 0.50", 2.0, 10, False)
    # eight letters of 6 pixels from 150 would end at 198, outside of 180
    assert (second.text_x, second.text_y, second.text_ends) == (170, 37.5, True)


def test_labels_that_would_overlap_are_moved_or_removed() -> None:
    fox = Detection(box=box(20, 30, 60, 70), confidence=0.5)
    panel = make_panel(IMAGE, "detection", Detections(), Detections(items=(fox,) * 5), alt_text="", label="fox")
    # above the box, inside it at the upper and lower edge, below it; no free place is left
    assert [one.text_y for one in panel.shapes if one.text] == [27.5, 40, 67.5, 80]
    assert len(panel.shapes) == 5


def test_predictions_get_a_label_before_targets() -> None:
    # 9 pixels high, at the upper edge of an image that ends below it: there is room for one label
    low = replace(IMAGE, size=ImageSize(180, 10))
    items = (Detection(box=box(20, 0, 60, 9), confidence=0.5, label="fox"),)
    foxes = LabelledDetections(items=items, classes=("fox",))
    panel = make_panel(low, "multiclass_detection", foxes, foxes, alt_text="")
    assert [(one.kind, bool(one.text)) for one in panel.shapes] == [("target", False), ("hit", True)]
