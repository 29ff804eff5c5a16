"""Comparison of class names: the strict rule and the paper's substring rule."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from virft.types import Label


def normalize_label(text: str) -> str:
    """Normalise a class name: NFKC, case-folded, without spaces, punctuation and ``_``. The result may be empty.

    >>> normalize_label(" Boeing_737-200. ")
    'boeing737200'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isalnum():
        return folded
    # Letters, marks, numbers and symbols remain. Sk has the backtick and the caret; Z, C and P are spaces, invisible
    # characters and punctuation.
    categories = ((character, unicodedata.category(character)) for character in folded)
    remaining = "".join(character for character, category in categories if category[0] in "LMNS" and category != "Sk")
    return unicodedata.normalize("NFKC", remaining)  # a mark may now follow a letter that it combines with


_normalize_known = lru_cache(maxsize=8192)(normalize_label)  # only for names of the dataset, not for model output


def is_same_label(answer: str, target: Label) -> bool:
    """Return True if ``answer`` equals the target's name or one of its aliases, after normalisation.

    An answer that is empty after normalisation matches nothing.

    >>> plane = Label(text="airplane", aliases=("plane",))
    >>> is_same_label("Plane", plane), is_same_label("cat", Label(text="caterpillar"))
    (True, False)
    """
    name = normalize_label(answer)
    return bool(name) and any(_normalize_known(known) == name for known in (target.text, *target.aliases))


def is_substring_match(answer: str, target: Label) -> bool:
    """Return True if one name contains the other, ignoring spaces, ``_`` and case. An empty answer matches everything.

    Source: Visual-RFT code. Not a measure of accuracy: "A or B or C" matches all three.

    >>> is_substring_match("a cat or a dog", Label(text="Cat")), is_substring_match("cat", Label(text="caterpillar"))
    (True, True)
    """
    name, own = (text.replace(" ", "").replace("_", "").lower() for text in (answer, target.text))
    return name in own or own in name
