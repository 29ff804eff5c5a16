"""A page shows an answer while it is generated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from factories import save_image
from result_factories import result
from virft.errors import DataError
from virft.inference.live_answer import LiveAnswer, before_answer, live_answers
from virft.inference.queries import ImageQuery
from virft.report.render.images import ANSWER_COLOUR

TEXT = "<think>red fur</think><answer>[[100, 200, 500, 600]]</answer>"


class Writer:
    """Writes the text in two pieces."""

    def stream(self, query: ImageQuery) -> Iterator[Any]:
        yield TEXT[:12]
        yield TEXT
        yield result(TEXT)


def test_reasoning_comes_first_and_boxes_come_last() -> None:
    writer: Any = Writer()
    first, second, last = live_answers(writer, ImageQuery(image=Path("a.jpg"), query="fox"))
    assert first == LiveAnswer(reasoning="red f", text=TEXT[:12])
    assert second == LiveAnswer(reasoning="red fur", answer="[[100, 200, 500, 600]]", text=TEXT)
    assert (last.reasoning, last.answer) == (second.reasoning, second.answer)
    assert last.reading == "answer: 1 box, in pixels of 200 x 100\n  [20.0, 20.0, 100.0, 60.0]  confidence 1.00"
    assert last.image is not None
    # 448 pixels for 200: the left edge at 20 * 2.24
    assert last.image.getpixel((45, 100)) == ANSWER_COLOUR


def test_the_image_is_shown_before_the_query_and_small_enough_to_send(tmp_path: Path) -> None:
    large, small = save_image(tmp_path / "large.jpg", (2560, 100)), save_image(tmp_path / "small.png", (64, 48))
    shown = before_answer(large).image, before_answer(small).image
    assert [image.size for image in shown if image] == [(1280, 50), (64, 48)]
    with pytest.raises(DataError, match="no such image"):
        before_answer(tmp_path / "none.png")
