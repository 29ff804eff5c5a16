"""A page is one file that escapes all text and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from factories import sample, save_image
from report_factories import PageReader
from virft.report.render.page import html_table, paragraph, render
from virft.report.render.run_page import render_run_page
from virft.report.render.samples import summarize, write_samples_page
from virft.types import Sample

NASTY = "</figure><script>alert(1)</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of one image, whose class and title are markup."""
    one = sample(image=str(save_image(tmp_path_factory.mktemp("images") / "a.png")), query=NASTY)
    return "".join(write_samples_page([("", [one])], title="A <run>", summary=summarize([one]), intro="a < b & c"))


def test_text_is_escaped_and_every_element_is_closed(page: str) -> None:
    found = PageReader(page)
    assert {"A <run>", "a < b & c", NASTY} <= set(found.texts)
    assert "<script>alert" not in page
    (panel,) = found.all("svg", cls="panel")
    assert panel["aria-label"] == f"{NASTY}: 1 box"


def policy_of(text: str) -> str:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    return str(policy)


@pytest.mark.parametrize("name", ["run", "samples"])
def test_only_the_pages_own_script_may_run(name: str, page: str) -> None:
    text = page if name == "samples" else render_run_page([], title="t")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    policy = policy_of(text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "img-src data:;" in policy


def test_nothing_is_fetched(page: str) -> None:
    found = PageReader(page)
    links = [value for _, attrs in found.elements for name, value in attrs.items() if name in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in page
    assert "@import" not in page


def test_a_long_page_is_rendered_piece_by_piece(tmp_path: Path) -> None:
    drawn = []
    one = sample(image=str(save_image(tmp_path / "a.png")))

    def groups() -> Iterator[tuple[str, list[Sample]]]:
        for number in range(3):
            drawn.append(number)
            yield "", [one]

    pieces = write_samples_page(groups(), title="t", summary=summarize([one]), intro="i")
    next(pieces)
    assert drawn == []
    assert "".join(pieces).endswith("</html>")
    assert drawn == [0, 1, 2]


def test_a_missing_template_value_raises() -> None:
    with pytest.raises(UndefinedError):
        render("samples.html.jinja", title="t", cards=[])


def test_a_table_can_be_reached_by_keyboard_and_names_its_rows() -> None:
    found = PageReader(html_table(["", "f1"], [["<base>", "0.1"]]) + paragraph("a < b"))
    assert found.texts == ["f1", "<base>", "0.1", "a < b"]
    assert found.all("div") == [{"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"}]
    assert [one["scope"] for one in found.all("th")] == ["col", "col", "row"]
