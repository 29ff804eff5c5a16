"""Render HTML templates as self-contained pages that load nothing from a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from virft.report.render.curves import Chart
from virft.report.render.line_chart import draw_chart


def render(template: str, **values: Any) -> str:
    """Render a template of ``report/render/templates``; every text that is not ``Markup`` is escaped."""
    return "".join(stream(template, **values))


def stream(template: str, **values: Any) -> Iterator[str]:
    """Render a template piece by piece, so that a long page is never in memory as a whole."""
    return _environment().get_template(template).generate(**values)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, of_texts: bool = False) -> Markup:
    """Return a table for a ``Section``; the first column names the row.

    Cells are aligned right, for numbers; with ``of_texts`` all are aligned left.

    >>> str(html_table(["", "f1"], [["<base>", "0.1"]])).split("<tbody>")[1]
    '<tr><th scope="row">&lt;base&gt;</th><td>0.1</td></tr></tbody></table></div>'
    """
    head = Markup().join(Markup('<th scope="col">{}</th>').format(cell) for cell in header)
    body = Markup().join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], Markup().join(Markup("<td>{}</td>").format(cell) for cell in row[1:])
        )
        for row in rows
    )
    table = Markup('<table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        "texts" if of_texts else "numbers", head, body
    )
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="table">{}</div>').format(table)


def paragraph(text: str) -> Markup:
    """Return a paragraph for a ``Section``."""
    return Markup("<p>{}</p>").format(text)


def chart_figure(chart: Chart) -> Markup:
    """Return a chart for a ``Section``; several may be put into a ``div`` of class ``charts``."""
    text = '{% import "parts.html.jinja" as parts %}{{ parts.chart(draw_chart(chart)) }}'
    return Markup(_environment().from_string(text).render(chart=chart))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("virft.report.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(draw_chart=draw_chart, inline=_inline, hash_of=_hash_of)
    return environment


def _inline(name: str) -> Markup:
    """Return a template file unrendered."""
    environment = _environment()
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _hash_of(text: str) -> str:
    """Return the hash of the one script that the page's content security policy allows.

    Nothing else may run: the page shows completions, which are untrusted text.
    """
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
