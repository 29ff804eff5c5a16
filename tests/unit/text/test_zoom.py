"""Zoom calls: two forms, and text that is no valid call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.geometry.boxes import BoxSpace
from virft.text.prompts import PromptTexts, fill_template
from virft.text.zoom import read_zoom_call, render_zoom_call
from virft.types import Box, ImageSize, Unreadable

SIZE = ImageSize(500, 200)
TOOL = '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [100, 100, 200, 500], "label": "a fox"}}'


def read(text: str, space: BoxSpace = BoxSpace.RELATIVE_1000, resized: ImageSize = SIZE) -> object:
    return read_zoom_call(text, space=space, original=SIZE, resized=resized)


@pytest.mark.parametrize(
    "text",
    [
        "<zoom>[100, 100, 200, 500]</zoom>",
        "<think>small</think> <zoom>[[100.0,100,200,500]]</zoom>\n",
        TOOL + "\n</tool_call>",
        "<think>too small</think>\n" + TOOL + "</tool_call>",
    ],
)
def test_both_forms_are_read(text: str) -> None:
    assert read(text) == Box(x1=50.0, y1=20.0, x2=100.0, y2=100.0)


def test_boxes_are_in_the_coordinates_of_the_family() -> None:
    text = "<zoom>[10, 10, 20, 50]</zoom>"
    assert read(text, BoxSpace.RESIZED_PIXELS, ImageSize(250, 100)) == Box(x1=20.0, y1=20.0, x2=40.0, y2=100.0)
    assert read(text, BoxSpace.ORIGINAL_PIXELS) == Box(x1=10.0, y1=10.0, x2=20.0, y2=50.0)


@pytest.mark.parametrize("text", ["", "No Objects", "<answer>[1, 2]</answer>", "<answer>a</answer><zoom>[1, 2]</zoom>"])
def test_a_text_without_a_call_or_with_an_answer_is_none(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<zoom>[1, 2, 3]</zoom>", "3 values in a box; expected 4 numbers"),
        ("<zoom>[100, 100, 200, 500]", "a zoom call that is not closed"),
        ("<zoom>[1, 2, 3, 4]</zoom><zoom>[1, 2, 3, 4]</zoom>", "2 zoom calls; expected one"),
        ("<zoom>[100, 100, 200, 500]</zoom> fox", "text after the zoom call"),
        ("<zoom>fox</zoom>", "the zoom call holds no box"),
        ("<zoom>[1, 2, 3, oops]</zoom>", "a value of a box is not a number"),
        ("<zoom>[100, 100, 200, 1500]</zoom>", "outside 0..1000 x 0..1000 by more than 1%"),
        ("<zoom>[100, 100, 100, 500]</zoom>", "a box without area"),
        ("<zoom>[0.1, 0.1, 0.2, 0.5]</zoom>", "all numbers at most 1"),
        (
            '<tool_call>{"name": "search", "arguments": {}}</tool_call>',
            "a call of another tool than image_zoom_in_tool",
        ),
        ('<tool_call>{"name": "image_zoom_in_tool", "arguments": []}</tool_call>', "the zoom call holds no box"),
        ("<zoom>[" * 2 + "x" * 40_000, "longer than 32768 bytes"),
    ],
)
def test_an_invalid_call_is_unreadable(text: str, reason: str) -> None:
    found = read(text)
    assert isinstance(found, Unreadable) and found.reason.startswith(reason)
    assert len(found.piece) < 100


@given(st.text(alphabet="<zom/>tl_ca[]{}1,. \n\"':answer", max_size=80) | st.text())
def test_any_text_is_read_without_an_exception(text: str) -> None:
    for one in (text, f"<zoom>{text}</zoom>", f"<tool_call>{text}</tool_call>"):
        found = read(one)
        if isinstance(found, Box):
            assert 0 <= found.x1 < found.x2 <= SIZE.width and 0 <= found.y1 < found.y2 <= SIZE.height


@pytest.mark.parametrize("space", list(BoxSpace))
def test_a_rendered_call_is_read_back(space: BoxSpace) -> None:
    box = Box(x1=50, y1=20, x2=100, y2=100)
    text = render_zoom_call(box, space=space, original=SIZE, resized=SIZE, thinking_text="small")
    assert text.startswith("<think>small</think><zoom>[") and read(text, space) == box


def test_only_built_in_templates_offer_a_zoom_call() -> None:
    texts = PromptTexts(short="Detect {query}.", request="Find {query}.", schema="A list.")

    def prompt(template: str, *, zoom: bool) -> str:
        return fill_template(texts, "fox", template=template, thinking=False, zoom=zoom)

    assert prompt("short", zoom=True) == "Detect fox. Zoom if needed."
    assert "<tool_call>" in prompt("paper", zoom=True)
    assert prompt("paper", zoom=True).startswith(prompt("paper", zoom=False))
    assert prompt("Where is {query}?", zoom=True) == "Where is fox?"
