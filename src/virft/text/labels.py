"""Whether two class names are the same: the strict rule and the paper's substring rule."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from virft.types import Label


def normalize_label(text: str) -> str:
    """The letters, marks, digits and symbols of a name: NFKC, no case, no spaces, punctuation or ``_``.

    May come out empty.

    >>> normalize_label(" Boeing_737-200. ")
    'boeing737200'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isalnum():
        return folded
    # Sk holds the backtick and the caret; Z, C and P are spaces, invisible characters and punctuation.
    categories = ((character, unicodedata.category(character)) for character in folded)
    kept = "".join(character for character, category in categories if category[0] in "LMNS" and category != "Sk")
    return unicodedata.normalize("NFKC", kept)  # a mark may now stand beside a letter it combines with


_normalize_known = lru_cache(maxsize=8192)(normalize_label)  # names of the data set, never text of a model


def is_same_label(answer: str, target: Label) -> bool:
    """Whether ``answer`` names the target: equal after normalising to its name or to one of its aliases.

    An answer that normalises to nothing names nothing.

    >>> plane = Label(text="airplane", aliases=("plane",))
    >>> is_same_label("Plane", plane), is_same_label("cat", Label(text="caterpillar"))
    (True, False)
    """
    name = normalize_label(answer)
    return bool(name) and any(_normalize_known(known) == name for known in (target.text, *target.aliases))


def is_substring_match(answer: str, target: Label) -> bool:
    """The paper's rule: without spaces, ``_`` and case, one holds the other. An empty answer matches everything.

    Source: Visual-RFT code. Not a measure of skill: "A or B or C" is right for all three.

    >>> is_substring_match("a cat or a dog", Label(text="Cat")), is_substring_match("cat", Label(text="caterpillar"))
    (True, True)
    """
    name, own = (text.replace(" ", "").replace("_", "").lower() for text in (answer, target.text))
    return name in own or own in name
