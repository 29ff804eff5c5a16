"""Griffe extension for the documentation site, listed in mkdocs.yml: doctests in docstrings become code blocks."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Fences the lines from each >>> to the next empty line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the doctests of an object; Griffe calls this for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a docstring with its doctests in fenced code blocks, and no links made of shapes such as [N][M].

    >>> fenced("The sum.\\n\\n>>> 1 + 1\\n2\\n\\nMore.")
    'The sum.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```\\n\\nMore.'
    """
    lines: list[str] = []
    inside = False
    for line in [*text.splitlines(), ""]:
        if line.startswith(">>>") and not inside:
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line if inside else line.replace("][", "]\\["))
    return "\n".join(lines[:-1])
