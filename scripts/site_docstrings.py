"""Doctests of docstrings as blocks of code, for the documentation site; an extension of Griffe, named in mkdocs.yml."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Everything from a line that begins with >>> to the next empty line is a fenced block."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """A docstring with its doctests between fences.

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
        lines.append(line)
    return "\n".join(lines[:-1])
