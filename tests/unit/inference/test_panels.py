"""What a page shows of an answer while it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asking_factories import answered
from factories import save_image
from virft.errors import DataError
from virft.inference.panels import Panel, first_panel, panels
from virft.inference.questions import Question
from virft.report.render.images import ANSWER_COLOUR

TEXT = "<think>red fur</think><answer>[[100, 200, 500, 600]]</answer>"


class Writer:
    """Writes the text in two pieces."""

    def stream(self, question: Question) -> Iterator[Any]:
        yield TEXT[:12]
        yield TEXT
        yield answered(TEXT)


def test_reasoning_comes_first_and_boxes_come_last() -> None:
    writer: Any = Writer()
    first, second, last = panels(writer, Question(image=Path("a.jpg"), query="fox"))
    assert first == Panel(reasoning="red f")
    assert second == Panel(reasoning="red fur", answer="[[100, 200, 500, 600]]")
    assert (last.reasoning, last.answer) == (second.reasoning, second.answer)
    assert last.reading == "answer: 1 box, in pixels of 200 x 100\n  [20.0, 20.0, 100.0, 60.0]  confidence 1.00"
    assert last.picture is not None
    # 448 pixels for 200: the left edge at 20 * 2.24
    assert last.picture.getpixel((45, 100)) == ANSWER_COLOUR


def test_a_picture_is_shown_before_it_is_asked_about_and_small_enough_to_send(tmp_path: Path) -> None:
    large, small = save_image(tmp_path / "large.jpg", (2560, 100)), save_image(tmp_path / "small.png", (64, 48))
    shown = first_panel(large).picture, first_panel(small).picture
    assert [picture.size for picture in shown if picture] == [(1280, 50), (64, 48)]
    with pytest.raises(DataError, match="no such image"):
        first_panel(tmp_path / "none.png")
