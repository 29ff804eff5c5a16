"""Facts about the text of a question that a user or a dataset brings."""

from __future__ import annotations

import re

from virft.geometry.boxes import BoxSpace

_PLACEHOLDER = re.compile(r"[ \t]*<image>[ \t]*\n?")
_TO = r"\s*(?:to|and|-|–|,|~)\s*"
_THOUSANDTHS = re.compile(rf"\b0{_TO}(?:1000|999)\b", re.IGNORECASE)
_FRACTIONS = re.compile(rf"\b0(?:\.0)?{_TO}1(?:\.0)?(?![\d.]*\d)", re.IGNORECASE)
_PIXELS = re.compile(r"\b(?:in|absolute)\s+(?:absolute\s+)?pixels?\b|\bpixel (?:coordinates|values)\b", re.IGNORECASE)


def without_placeholders(text: str) -> str:
    """Return a question without image placeholders, as LLaVA and LLaMA-Factory write them; the images come first.

    >>> without_placeholders("<image><image>\\nWhich is larger?")
    'Which is larger?'
    """
    return _PLACEHOLDER.sub(" ", text).strip() if "<image>" in text else text


def demands_thinking(question: str) -> bool:
    """Return True if a question demands a think block."""
    return "<think>" in question


def demanded_spaces(question: str) -> tuple[BoxSpace, ...] | None:
    """Return the coordinate spaces that fit the numbers that a question demands; None if it names none.

    Fractions fit no space. In a question with the word confidence, a range from 0 to 1 is not about coordinates.

    >>> demanded_spaces("Give the boxes (between 0 and 1000, integer) and confidence (between 0 and 1).")
    (<BoxSpace.RELATIVE_1000: 'relative_1000'>,)
    """
    if _THOUSANDTHS.search(question):
        return (BoxSpace.RELATIVE_1000,)
    if _PIXELS.search(question):
        return (BoxSpace.RESIZED_PIXELS, BoxSpace.ORIGINAL_PIXELS)
    if _FRACTIONS.search(question) and "confiden" not in question.lower():
        return ()
    return None
