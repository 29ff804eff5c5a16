"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(number: int, noun: str, form: str = "") -> str:
    """Return a number with its noun, which gets an s unless the number is 1. ``form``: format of the number.

    >>> counted(1, "image"), counted(0, "image"), counted(1200, "training run", ",")
    ('1 image', '0 images', '1,200 training runs')
    """
    return f"{number:{form}} {noun}{'' if number == 1 else 's'}"
