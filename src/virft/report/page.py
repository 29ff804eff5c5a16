"""A run as one HTML page that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Literal

from PIL import Image

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .75rem; text-align: right;
  border-bottom: 1px solid #8888; }
th:first-child, td:first-child { text-align: left; } img { max-width: 100%; height: auto; background: white; }
"""


def render_page(
    title: str, *, intro: str, tables: Mapping[str, str], picture: Image.Image | None, picture_text: str
) -> str:
    """The page: a title, a paragraph, tables (HTML, by caption) and one picture with its text alternative."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(intro)}</p>"]
    parts += [f"<h2>{html.escape(caption)}</h2>{table}" for caption, table in tables.items()]
    if picture is not None:
        parts.append(f'<h2>Before and after</h2><img alt="{html.escape(picture_text)}" src="{data_uri(picture)}">')
    head, tail = page_around(title)
    return head + "\n".join(parts) + tail


def page_around(title: str, *, style: str = "") -> tuple[str, str]:
    """What stands before and behind a page's body; ``style`` goes over our own."""
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}{style}</style></head><body>"
    )
    return head, "</body></html>\n"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column names the row.

    >>> html_table(["", "f1"], [["base", "0.1"]])
    '<table><tr><th></th><th>f1</th></tr><tr><td>base</td><td>0.1</td></tr></table>'
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(header, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def data_uri(picture: Image.Image, kind: Literal["PNG", "JPEG"] = "PNG") -> str:
    """The picture inside a URI."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
