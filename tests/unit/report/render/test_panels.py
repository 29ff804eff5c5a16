"""Targets and answers as shapes on a picture."""

from __future__ import annotations

from typing import Any

import pytest

from factories import box, detections
from virft.report.render.page_images import PagePicture
from virft.report.render.panels import panel
from virft.types import Box, Detection, Detections, ImageSize, Label, Unreadable

PICTURE = PagePicture(id="picture-0", size=ImageSize(180, 90))


def shapes(target: Any, answer: Any, *, task: str = "detection") -> list[tuple[str, str]]:
    return [(one.kind, one.text) for one in panel(PICTURE, task, target, answer, in_words="").shapes]


def test_hits_and_misses_are_told_apart_and_carry_their_confidence() -> None:
    answer = Detections(
        items=(Detection(box=box(0, 0, 10, 10), confidence=0.9), Detection(box=box(50, 50, 60, 60), confidence=0.25))
    )
    assert shapes(detections((0, 0, 10, 9)), answer) == [("target", ""), ("hit", "0.90"), ("miss", "0.25")]


def test_a_shape_lies_where_the_box_does() -> None:
    (shape,) = panel(PICTURE, "detection", Detections(), detections((1, 2, 4, 6.25)), in_words="a fox").shapes
    assert (shape.x, shape.y, shape.width, shape.height) == (1, 2, 3, 4.2)


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        (box(0, 0, 10, 5), ["target", "hit"]),
        (box(0, 0, 10, 4), ["target", "miss"]),
        (Unreadable(reason=""), ["target"]),
    ],
)
def test_a_grounded_box_is_a_hit_from_half_overlap_on(answer: Box | Unreadable, kinds: list[str]) -> None:
    # 50 and 40 pixels of 100
    assert [kind for kind, _ in shapes(box(0, 0, 10, 10), answer, task="grounding")] == kinds


def test_names_and_nothing_have_no_shapes() -> None:
    assert shapes(Label(text="a"), Label(text="b"), task="classification") == []
    assert shapes(Detections(), Detections()) == []
    assert shapes(None, Detections()) == []


def test_letters_grow_with_the_picture() -> None:
    assert panel(PICTURE, "detection", None, Detections(), in_words="").font_size == 10
