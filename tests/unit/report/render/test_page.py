"""A page is one file that escapes all text and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from jinja2 import UndefinedError

from report_factories import PageReader
from virft.report.render.page import html_table, paragraph, render, stream
from virft.report.render.run_page import render_run_page
from virft.report.render.samples import Figure


def page(title: str = "A <run>") -> str:
    figure = Figure(uri="data:image/webp;base64,", alt_text='a "red" fox', lines=["<script>alert(1)</script>"])
    return render("samples.html.jinja", title=title, intro="a < b & c", figures=[figure])


def test_text_is_escaped_and_every_element_is_closed() -> None:
    found = PageReader(page())
    assert "A <run>" in found.texts
    assert "a < b & c" in found.texts
    assert "<script>alert(1)</script>" in found.texts
    assert found.all("img") == [{"alt": 'a "red" fox', "src": "data:image/webp;base64,"}]


def policy_of(text: str) -> str:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    return str(policy)


def test_a_page_of_samples_runs_no_script() -> None:
    assert policy_of(page()) == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'none'"
    assert "<script>" not in page()


def test_only_the_pages_own_script_may_run() -> None:
    text = render_run_page([], title="t")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    policy = policy_of(text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "img-src data:;" in policy


def test_nothing_is_fetched() -> None:
    found = PageReader(page())
    links = [value for _, attrs in found.elements for name, value in attrs.items() if name in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in page()
    assert "@import" not in page()


def test_a_long_page_is_rendered_piece_by_piece() -> None:
    drawn = []

    def figures() -> object:
        for number in range(3):
            drawn.append(number)
            yield Figure(uri="data:", alt_text="", lines=[])

    pieces = stream("samples.html.jinja", title="t", intro="i", figures=figures())
    next(pieces)
    assert drawn == []
    assert "".join(pieces).endswith("</html>")
    assert drawn == [0, 1, 2]


def test_a_missing_template_value_raises() -> None:
    with pytest.raises(UndefinedError):
        render("samples.html.jinja", title="t", figures=[])


def test_a_table_can_be_reached_by_keyboard_and_names_its_rows() -> None:
    found = PageReader(html_table(["", "f1"], [["<base>", "0.1"]]) + paragraph("a < b"))
    assert found.texts == ["f1", "<base>", "0.1", "a < b"]
    assert found.all("div") == [{"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"}]
    assert [one["scope"] for one in found.all("th")] == ["col", "col", "row"]
