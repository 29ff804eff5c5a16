"""What a model is asked: question templates by task, with or without thinking; what a prompt has begun to answer."""

from __future__ import annotations

import re
from pathlib import Path

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.types import Sample, TaskName

BUILT_IN = ("paper", "short")

_SHORT = {
    TaskName.DETECTION: "Detect {query}.",
    TaskName.CLASSIFICATION: "Which {query} is this?",
    TaskName.GROUNDING: "Locate {query}.",
}

# Our own wording of the paper's long instruction: the request, where to reason, the answer's schema.
_PAPER_REQUEST = {
    TaskName.DETECTION: "Find every object of the category '{query}' in this image and give a box for each.",
    TaskName.CLASSIFICATION: "Name the exact kind of {query} that this image shows.",
    TaskName.GROUNDING: "Find the one region of this image that fits the description: {query}",
}

_PAPER_SCHEMA = {
    TaskName.DETECTION: (
        "The answer is a list with one entry per object, "
        "[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]: the left, top, right and bottom edge of "
        "the box as {coordinates}, and how sure you are of it, from 0 to 1 with two decimals. "
        "If there is no such object, the answer is No Objects."
    ),
    TaskName.CLASSIFICATION: "The answer is the name alone.",
    TaskName.GROUNDING: (
        "The answer is one box, (x1,y1),(x2,y2): its top left and bottom right corner as {coordinates}."
    ),
}

_PAPER_BLOCKS = {
    True: "Think it through first, between <think> and </think>; then write the answer between <answer> and </answer>.",
    False: "Write only the answer, between <answer> and </answer>.",
}

_COORDINATES = {
    BoxSpace.RELATIVE_1000: "whole numbers from 0 to 1000 relative to the width and height of the image",
    BoxSpace.RESIZED_PIXELS: "whole numbers in pixels",
    BoxSpace.ORIGINAL_PIXELS: "whole numbers in pixels",
}

_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")


def question(
    task: TaskName,
    query: str,
    *,
    template: str,
    thinking: bool,
    space: BoxSpace = BoxSpace.RELATIVE_1000,
) -> str:
    """The text put to the model. ``template`` is "paper", "short", or a text that holds ``{query}``.

    ``space`` is told to the model by "paper" only. A text of the user's own says by itself whether to
    think; nothing is added to it.

    >>> question(TaskName.DETECTION, "fox", template="short", thinking=True)
    'Detect fox. Think first.'
    """
    if template == "short":
        return _SHORT[task].replace("{query}", query) + (" Think first." if thinking else "")
    if template == "paper":
        schema = _PAPER_SCHEMA[task].replace("{coordinates}", _COORDINATES[space])
        return " ".join([_PAPER_REQUEST[task].replace("{query}", query), _PAPER_BLOCKS[thinking], schema])
    if "{query}" not in template:
        raise ValueError(f"a template without {{query}}: {template!r}")
    # Plain replacement: a user's text may hold the braces of a JSON example.
    return template.replace("{query}", query)


def question_of(sample: Sample, *, template: str, thinking: bool, space: BoxSpace = BoxSpace.RELATIVE_1000) -> str:
    """The sample's question: the one its data set brought along, else one made from the template."""
    if sample.question is not None:
        return sample.question
    return question(sample.task, sample.query, template=template, thinking=thinking, space=space)


def read_template(name: str) -> str:
    """The template of a ``prompt.template`` setting: a built-in's name as it is, or the text of a file.

    A file's last line break is left out.

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


def opened_by(prompt: str) -> str:
    r"""What of the answer a prompt has written already: a think tag at its very end, and the spaces behind it.

    Chat templates of models that always think end so; what these models write then begins inside of the thought.

    >>> opened_by("<|im_start|>assistant\n<think>\n"), opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    ('<think>\n', '')
    """
    found = _OPEN_THOUGHT.search(prompt)
    return found[0] if found else ""


def left_to_write(text: str, opened: str) -> str:
    r"""What is left of an answer's text behind a prompt that has ``opened`` it.

    >>> left_to_write("<think>red fur</think><answer>fox</answer>", "<think>\n")
    'red fur</think><answer>fox</answer>'
    """
    return text.removeprefix(opened.rstrip())
