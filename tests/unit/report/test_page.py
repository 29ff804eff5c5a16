"""A run's page is one file that shows text as it is."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

from PIL import Image

from virft.report.page import data_uri, html_table, render_page


class Reader(HTMLParser):
    """Collects texts and pictures, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(**changes: object) -> Reader:
    parts = {
        "intro": "a < b & c",
        "tables": {"Scores": html_table(["", "f1"], [["<script>", "0.5"]])},
        "picture": Image.new("RGB", (4, 3)),
        "picture_text": 'boxes "red"',
    }
    reader = Reader()
    reader.feed(render_page("A <run>", **parts | changes))  # type: ignore[arg-type]
    return reader


def test_text_is_shown_as_it_is_and_every_element_is_closed() -> None:
    found = page()
    assert found.open == []
    for text in ("A <run>", "a < b & c", "Scores", "<script>", "0.5"):
        assert text in found.texts


def test_the_picture_has_a_text_and_lies_in_the_page() -> None:
    (picture,) = page().pictures
    assert picture["alt"] == 'boxes "red"'
    assert (picture["src"] or "").startswith("data:image/png;base64,")


def test_a_page_without_a_picture_has_none() -> None:
    assert page(picture=None).pictures == []


def test_a_uri_holds_the_picture() -> None:
    picture = Image.new("RGB", (4, 3), (1, 2, 3))
    raw = base64.b64decode(data_uri(picture).partition(",")[2])
    with Image.open(io.BytesIO(raw)) as again:
        assert again.size == (4, 3)
        assert again.getpixel((0, 0)) == (1, 2, 3)
