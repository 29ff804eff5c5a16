"""Comparison of class names: the strict rule and the paper's substring rule."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from virft.types import Label

_MINUS = "\u2212"  # a symbol to Unicode, so that it remains where punctuation goes
# Decimal points of other scripts, and the raised one, are points.
_SAME_CHARACTERS = str.maketrans(dict.fromkeys("‐‑‒–—", "-") | dict.fromkeys("\u00b7\u066b", ".") | {"\u2044": "/"})
_POINT_FIRST = re.compile(r"(?<![\w.])\.(?=\d)")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
# Punctuation that distinguishes names. Everything else outside letters, marks, numbers and symbols is dropped.
_DISTINGUISHES = re.compile(
    r"""(
        (?<=\d) \s* [,/:] \s* (?=\d)           # 1,5  1/2  1:10
      | (?<=\d) \. (?=\d)                      # 1.5
      | (?<=\d) \s* %                          # 5 %
      | (?<=[^\W\d_]) \#                       # C#
      | (?<![^\W_]) - (?=\.?\d)                # -3, but not 737-200
      | (?<=\de) - (?=\d)                      # 1e-5
      | (?:(?<=\b[^\W\d_])|(?<=\b[^\W\d_]{2})) - (?![^\W_])   # A-  AB-, but not cat-
    )""",
    re.VERBOSE,
)


def normalize_label(text: str) -> str:
    """Normalise a class name: NFKC, case-folded, without spaces, ``_`` and punctuation that distinguishes no names.

    These remain: a decimal point or comma, a slash and a colon between digits; a minus before a number and after a name
    of one or two letters (a grade, a blood group); ``%`` after a digit; ``#`` after a letter. Commas between thousands
    go. The result may be empty.

    >>> [normalize_label(text) for text in (" Boeing_737-200. ", "1,000", "**1.5**", "C#")]
    ['boeing737200', '1000', '1.5', 'c#']
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isalnum():
        return folded
    visible = "".join(_visible(character) for character in folded.translate(_SAME_CHARACTERS))
    parts = _DISTINGUISHES.split(_POINT_FIRST.sub("0.", visible))
    remaining = "".join(
        part.strip().replace("-", _MINUS) if number % 2 else _without_punctuation(part)
        for number, part in enumerate(parts)
    )
    remaining = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), remaining)
    return unicodedata.normalize("NFKC", remaining)  # a mark may now follow a letter that it combines with


def _visible(character: str) -> str:
    """A space for any kind of space, nothing for an invisible character, else the character."""
    if character.isspace():
        return " "
    return "" if unicodedata.category(character)[0] == "C" else character


def _without_punctuation(text: str) -> str:
    """Letters, marks, numbers and symbols of a text. Sk has the backtick and the caret."""
    categories = ((character, unicodedata.category(character)) for character in text)
    return "".join(character for character, category in categories if category[0] in "LMNS" and category != "Sk")


normalize_name = lru_cache(maxsize=8192)(normalize_label)
"""``normalize_label`` with a cache: only for names of the dataset, not for model output."""


def is_same_label(answer: str, target: Label) -> bool:
    """Return True if ``answer`` equals the target's name or one of its aliases, after normalisation.

    An answer that is empty after normalisation matches nothing.

    >>> plane = Label(text="airplane", aliases=("plane",))
    >>> is_same_label("Plane", plane), is_same_label("cat", Label(text="caterpillar"))
    (True, False)
    """
    name = normalize_label(answer)
    return bool(name) and any(normalize_name(known) == name for known in (target.text, *target.aliases))


def is_substring_match(answer: str, target: Label) -> bool:
    """Return True if one name contains the other, ignoring spaces, ``_`` and case. An empty answer matches everything.

    Source: Visual-RFT code. Not a measure of accuracy: "A or B or C" matches all three.

    >>> is_substring_match("a cat or a dog", Label(text="Cat")), is_substring_match("cat", Label(text="caterpillar"))
    (True, True)
    """
    name, own = (text.replace(" ", "").replace("_", "").lower() for text in (answer, target.text))
    return name in own or own in name


def names_another(label: str, query: str) -> bool:
    """Return whether a label in a box contradicts the class of the question: neither name holds the words of the other.

    Case, punctuation and a plural ``s`` do not matter, and a more specific or a shorter name is no contradiction.

    >>> names_another("dog", "cat"), names_another("two Cats", "cat"), names_another("car", "racing car")
    (True, False, False)
    """
    own, other = _words(label), _words(query)
    return bool(own and other) and not (own <= other or other <= own)


def _words(text: str) -> set[str]:
    words = "".join(character if character.isalnum() else " " for character in text.casefold()).split()
    return {word.removesuffix("s") or word for word in words}
