"""Comparison of short answers: VQA's normalisation, the one number of a text, choices, lists, edit distance."""

from __future__ import annotations

import re
from collections.abc import Sequence

from virft.text.literals import read_elements

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
# The contractions that the evaluation restores; those with a second apostrophe may lack either or both of them.
_WORDS_WITH_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
    y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _WORDS_WITH_APOSTROPHES.split()}
_MAX_PERIODS = 32
"""Number of periods that the evaluation removes at most."""


def normalize_vqa(text: str) -> str:
    """Normalise an answer as VQA's evaluation does: lower case, without articles and punctuation, numbers as digits.

    Punctuation next to a space, or in a text with a comma between digits, is removed; other punctuation becomes a
    space. Number words are those from zero to ten and "none". Missing apostrophes of contractions are restored. The
    result may be empty. Source: Antol et al. 2015 (arXiv 1505.00468) and the evaluation code that was published with
    it.

    >>> [normalize_vqa(text) for text in ("The  Two dogs.", "red/blue", "1,000", "dont", "a")]
    ['2 dogs', 'red blue', '1000', "don't", '']
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    has_comma = _COMMA_IN_NUMBER.search(text) is not None
    changed = text
    for mark in _PUNCTUATION:
        is_apart = has_comma or f"{mark} " in text or f" {mark}" in text
        changed = changed.replace(mark, "" if is_apart else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", changed, count=_MAX_PERIODS).lower().split()]
    return " ".join(_CONTRACTIONS.get(word.replace("'", ""), word) for word in words if word not in _ARTICLES)


def same_answer(text: str, other: str) -> bool:
    """Return whether two answers are equal after ``normalize_vqa``; if nothing is left of one, ignoring case only.

    >>> same_answer("A dog.", "dog"), same_answer("an", "the"), same_answer("?", "?")
    (True, False, True)
    """
    first, second = normalize_vqa(text), normalize_vqa(other)
    return first == second if first and second else text.strip().lower() == other.strip().lower()


_SURROUNDING = ".,;:!?\"'`()[]*"
_CURRENCY = "$€£¥"
_WHOLE = r"(?:[0-9]{1,15}|[0-9]{1,3}(?:,[0-9]{3}){1,4})"
_FRACTION = r"\.[0-9]{1,15}"
_PLAIN_NUMBER = re.compile(rf"[+-]?(?:{_WHOLE}(?:{_FRACTION})?|{_FRACTION})(?:e[+-]?[0-9]{{1,2}})?%?")
_WORDS = {
    name: number
    for number, name in enumerate((*_NUMBER_WORDS, "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
                                   "seventeen", "eighteen", "nineteen", "twenty"))
} | {"none": 0}  # fmt: skip
_JOINTS = re.compile(r"[-–—/~]")


def number_in(text: str) -> float | None:
    """Return the one number in a text: digits, or a word from zero to twenty; None if there are several or none.

    Other words may surround it. Commas between thousands and a currency sign in front are dropped, and a percentage is
    divided by 100, as in ChartQA's evaluation. A range, a fraction, and digits with letters are no number.

    >>> [number_in(text) for text in ("12.5", "about 1,200 people", "5%", "$3", "seven")]
    [12.5, 1200.0, 0.05, 3.0, 7.0]
    >>> [number_in(text) for text in ("3-4", "3 or 4", "1/2", "12kg")]
    [None, None, None, None]
    """
    found: list[float] = []
    for token in text.replace("−", "-").split():
        word = token.rstrip(_SURROUNDING).lstrip(_SURROUNDING.replace(".", "") + _CURRENCY).casefold()
        if word in _WORDS:
            found.append(float(_WORDS[word]))
        elif _PLAIN_NUMBER.fullmatch(word):
            value = float(word.rstrip("%").replace(",", ""))
            found.append(value / 100 if word.endswith("%") else value)
        elif any(character.isnumeric() for character in word) or not _WORDS.keys().isdisjoint(_JOINTS.split(word)):
            return None
    return found[0] if len(found) == 1 else None


def is_close_number(value: float, target: float, *, relative: float, absolute: float) -> bool:
    """Return whether |value - target| <= max(relative |target|, absolute), up to rounding.

    With ``relative`` 0.05 this is the relaxed accuracy of ChartQA (arXiv 2203.10244).

    >>> is_close_number(104.9, 100, relative=0.05, absolute=0), is_close_number(0.001, 0, relative=0.05, absolute=0)
    (True, False)
    """
    return abs(value - target) <= max(relative * abs(target), absolute) + 1e-12 * abs(target)


_LETTER = re.compile(r"\(?([A-Za-z])[.):]*")
_LETTER_AND_TEXT = re.compile(r"\(?([A-Za-z])[.):]+\s*(\S.*)", re.DOTALL)


def choice_in(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that a text chooses: by letter, by text, or by both if they agree; else None.

    ``options``: texts of the options A, B, .. Texts are compared as in ``same_answer``. A text that is a letter alone
    is a letter, whatever the options say.

    >>> options = ("red", "dark blue")
    >>> [choice_in(text, options) for text in ("B", "(b)", "B.", "dark blue", "B) Dark blue", "B. red", "A B", "C")]
    ['B', 'B', 'B', 'B', 'B', None, None, None]
    """
    letters = [chr(ord("A") + place) for place in range(len(options))]
    text = text.strip()
    if (alone := _LETTER.fullmatch(text)) is not None:
        return alone[1].upper() if alone[1].upper() in letters else None
    of_letter = dict(zip(letters, options, strict=True))
    both = _LETTER_AND_TEXT.fullmatch(text)
    if both is not None and both[1].upper() in of_letter:
        # Not compared as a whole: "A." would be dropped as an article.
        return both[1].upper() if same_answer(both[2], of_letter[both[1].upper()]) else None
    named = [letter for letter, option in of_letter.items() if same_answer(text, option)]
    return named[0] if len(named) == 1 else None


_SEPARATORS = re.compile(r"[,;\n]")


def items_in(text: str) -> list[str]:
    """Return the items of a list: separated by commas, semicolons or line breaks, or in brackets with quotes.

    >>> items_in("red, dark blue; and green"), items_in("['red', 'blue']")
    (['red', 'dark blue', 'green'], ['red', 'blue'])
    """
    if text.startswith("["):
        # The parser of boxes takes a flat list as one element.
        elements = read_elements(text, 0, len(text))
        if isinstance(elements, list) and len(elements) == 1 and isinstance(held := elements[0].value, list):
            return [item for item in held if isinstance(item, str)] if all(isinstance(i, str) for i in held) else []
    return [item for part in _SEPARATORS.split(text) if (item := part.strip().removeprefix("and ").strip())]


def edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance of two texts, in characters.

    Bit-parallel: one column of the table is one integer, so a comparison takes a few operations for each character of
    ``second``. Source: Myers 1999 (J. ACM 46), in the form of Hyyrö 2003.

    >>> edit_distance("kitten", "sitting"), edit_distance("", "abc")
    (3, 3)
    """
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for place, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << place
    all_rows = (1 << len(first)) - 1
    last_row = 1 << (len(first) - 1)
    # Rows in which the distance is one more (one less) than in the row above.
    more, less = all_rows, 0
    distance = len(first)
    for character in second:
        equal = places.get(character, 0)
        diagonal = (((equal & more) + more) ^ more) | equal | less
        # The same, along the row: than in the column before.
        more_along = less | ~(diagonal | more)
        less_along = more & diagonal
        distance += bool(more_along & last_row) - bool(less_along & last_row)
        more_along, less_along = more_along << 1 | 1, less_along << 1
        more = (less_along | ~(diagonal | more_along)) & all_rows
        less = more_along & diagonal & all_rows
    return distance
