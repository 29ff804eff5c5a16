"""Question templates with or without thinking, and the part of a completion that a prompt already holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.types import ClassNote

BUILT_IN = ("paper", "short")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTexts:
    """Texts of a task in the built-in templates; ``{query}`` and ``{coordinates}`` are replaced.

    ``short``: the whole question of the template "short". ``request`` and ``schema``: first and last sentences of
    "paper", our own wording of the paper's long instruction: what to find, and the format of the answer.
    """

    short: str
    request: str
    schema: str


_PAPER_BLOCKS = {
    True: "Think it through first, between <think> and </think>; then write the answer between <answer> and </answer>.",
    False: "Write only the answer, between <answer> and </answer>.",
}

_COORDINATES = {
    BoxSpace.RELATIVE_1000: "whole numbers from 0 to 1000 relative to the width and height of the image",
    BoxSpace.RESIZED_PIXELS: "whole numbers in pixels",
    BoxSpace.ORIGINAL_PIXELS: "whole numbers in pixels",
}

_ZOOM = (
    "If something is too small to see, write one zoom call in place of the answer: "
    '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [x1, y1, x2, y2]}}</tool_call> with a region '
    "in {coordinates}. The enlarged region follows; then answer about the first image, in its coordinates."
)

_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")


def fill_template(
    texts: PromptTexts,
    query: str,
    *,
    template: str,
    thinking: bool,
    zoom: bool = False,
    space: BoxSpace = BoxSpace.RELATIVE_1000,
) -> str:
    """Return the question text. ``template`` is "paper", "short", or a text that holds ``{query}``.

    Only "paper" states the box space. The user's own template decides by itself whether to request thinking and to
    offer zoom calls (``zoom``); nothing is added to it. A template without ``{query}`` is a ``ValueError``.

    >>> texts = PromptTexts(short="Detect {query}.", request="Find {query}.", schema="The answer is a list.")
    >>> fill_template(texts, "fox", template="short", thinking=True)
    'Detect fox. Think first.'
    """
    if template == "short":
        hints = (" Think first." if thinking else "") + (" Zoom if needed." if zoom else "")
        return texts.short.replace("{query}", query) + hints
    if template == "paper":
        schema = texts.schema.replace("{coordinates}", _COORDINATES[space])
        parts = [texts.request.replace("{query}", query), _PAPER_BLOCKS[thinking], schema]
        return " ".join([*parts, *([_ZOOM.replace("{coordinates}", _COORDINATES[space])] if zoom else [])])
    if "{query}" not in template:
        raise ValueError(f"a template without {{query}}: {template!r}")
    # Plain replacement: a user's text may hold the braces of a JSON example.
    return template.replace("{query}", query)


def add_notes(question: str, notes: Sequence[ClassNote]) -> str:
    r"""Return a question with class instructions before it; without any, the question itself.

    They come first, so that the format of the answer is the end of the prompt, and so that the questions about several
    boxes of an image begin with the same tokens (prefix sharing).

    >>> add_notes("Detect fox.", [ClassNote("fox", "Red fur. Not: dogs.")])
    'Class instructions:\nfox: Red fur. Not: dogs.\n\nDetect fox.'
    """
    lines = "\n".join(f"{name}: {text}" for name, text in notes)
    return f"Class instructions:\n{lines}\n\n{question}" if notes else question


def read_template(name: str) -> str:
    """Return the template of a ``prompt.template`` setting: the name of a built-in one, or the text of a file.

    The last line break of a file is dropped. ``ConfigError`` if the file cannot be read, is not UTF-8, or has no
    ``{query}``.

    >>> read_template("short")
    'short'
    """
    if name in BUILT_IN:
        return name
    expected = "expected paper, short, auto, or a UTF-8 text file that holds {query}"
    try:
        text = Path(name).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise ConfigError(f"prompt.template: cannot read {name} ({error.strerror}); {expected}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt.template: {name} is not UTF-8 text; {expected}") from error
    if "{query}" not in text:
        raise ConfigError(f"prompt.template: {name} has no {{query}} in it; {expected}")
    return text


def opened_prefix(prompt: str) -> str:
    r"""Return the beginning of the completion that the prompt already holds: an open think tag and spaces at its end.

    Chat templates of models that always think end with it; the sampled tokens then begin inside the thought.

    >>> opened_prefix("<|im_start|>assistant\n<think>\n"), opened_prefix("<|im_start|>assistant\n<think>\n\n</think>\n")
    ('<think>\n', '')
    """
    found = _OPEN_THOUGHT.search(prompt)
    return found[0] if found else ""


def strip_opened_prefix(text: str, opened: str) -> str:
    r"""Return the part of a completion's text that comes after the prefix ``opened`` of the prompt.

    >>> strip_opened_prefix("<think>red fur</think><answer>fox</answer>", "<think>\n")
    'red fur</think><answer>fox</answer>'
    """
    return text.removeprefix(opened.rstrip())
