"""Pages that need no network: templates filled in, everything inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from virft.report.render.line_chart import draw_chart


def render(template: str, **values: Any) -> str:
    """A template of ``report/render/templates`` with every text escaped that is not ``Markup``."""
    return "".join(stream(template, **values))


def stream(template: str, **values: Any) -> Iterator[str]:
    """The same in pieces, so that a long page need not lie in memory."""
    return _environment().get_template(template).generate(**values)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, of_texts: bool = False) -> Markup:
    """A table for a ``Section``; the first column names the row. Numbers stand right, ``of_texts`` everything left.

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
    """A sentence or several for a ``Section``."""
    return Markup("<p>{}</p>").format(text)


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
    """A file of the templates as it is."""
    environment = _environment()
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _hash_of(text: str) -> str:
    """What a page's policy lets run, and nothing else: answers of models stand on the page."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
