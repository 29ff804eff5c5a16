"""Types of command-line arguments: text in, a checked value out, or a message that says what is allowed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from virft.types import ImageSize

_Number = TypeVar("_Number", int, float)
_Choice = TypeVar("_Choice", bound=str)


def number(
    kind: type[_Number],
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    unit: str = "",
) -> Callable[[str], _Number]:
    """Argument type of numbers inside limits. What it returns raises ``ArgumentTypeError`` for a number outside.

    >>> number(int, at_least=1)("8")
    8
    >>> number(float, at_least=0, below=1)("1")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: 1; expected a number of at least 0 and below 1
    """
    name = "integer" if kind is int else "number"
    words = {"of at least": at_least, "above": above, "of at most": at_most, "below": below}
    limits = " and ".join(f"{word} {limit:g}" for word, limit in words.items() if limit is not None)
    if at_least is not None and at_most is not None:
        limits = f"from {at_least:g} to {at_most:g}"
    expected = " ".join(["an integer" if kind is int else "a number", limits]) + (f", in {unit}" if unit else "")

    def parse(text: str) -> _Number:
        value = kind(text)
        # written so that NaN is inside no limit
        is_inside = (
            (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )
        if not is_inside:
            raise argparse.ArgumentTypeError(f"{text}; expected {expected}")
        return value

    parse.__name__ = name  # argparse names it in "invalid integer value: 'x'"
    return parse


positive = number(int, at_least=1)
not_negative = number(int, at_least=0)
fraction = number(float, at_least=0, below=1)


def one_of(choices: Iterable[_Choice]) -> Callable[[str], _Choice]:
    """Argument type of some names or an enumeration. What it returns raises ``ArgumentTypeError`` for any other text.

    >>> one_of(["cat", "dog"])("fox")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: 'fox'; expected one of cat, dog
    """
    allowed = {str(choice): choice for choice in choices}

    def parse(text: str) -> _Choice:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"{text!r}; expected one of {', '.join(allowed)}")
        return allowed[text]

    return parse


def names(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, stripped, without empty ones.

    >>> names("cat, dog,")
    ('cat', 'dog')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def class_group(text: str) -> tuple[str, tuple[str, ...]]:
    """Return name and classes of ``NAME=A,B``; ``ArgumentTypeError`` without either.

    >>> class_group("base=cat,dog")
    ('base', ('cat', 'dog'))
    """
    name, _, classes = text.partition("=")
    if not name.strip() or not names(classes):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a name and its classes, such as base=cat,dog")
    return name.strip(), names(classes)


def folder_or_none(text: str) -> Path | None:
    """Return a folder, or None for ``-``."""
    return None if text == "-" else Path(text)


def image_size(text: str) -> ImageSize:
    """Return the size that ``WxH`` says, in pixels; ``ArgumentTypeError`` for anything else.

    >>> image_size("640x480")
    ImageSize(width=640, height=480)
    """
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a size such as 640x480")
    return ImageSize(int(width), int(height))


def config_file(text: str) -> Path | str:
    """Return the path of a TOML file; a setting ``KEY=VALUE`` that is given in its place is returned as it is.

    >>> config_file("grpo.steps=10")
    'grpo.steps=10'
    """
    return Path(text) if "=" not in text or Path(text).is_file() else text
