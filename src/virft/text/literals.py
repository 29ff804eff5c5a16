"""Parser of lists and dictionaries as models write them: JSON, Python literals, and mixtures of both.

A list is parsed element by element, so that a fault invalidates one element only. The parser does not interpret values.
It takes linear time in the length of the text and never raises.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_DEPTH = 6
"""Largest depth of nested brackets."""
MAX_DIGITS = 20
"""Largest number of digits in a number; one with more invalidates its element."""
LIST_KEYS = frozenset({"objects", "detections", "annotations", "predictions", "results", "boxes", "bboxes"})
"""Keys whose list is read in place of the dictionary that holds it, in any case: ``{"objects": [..]}``."""
_BOX_LIST_KEYS = frozenset({"boxes", "bboxes"})
"""Those that hold boxes next to a label of their own, in a list: ``[{"label": "cat", "boxes": [[..], [..]]}]``."""


class Word(str):
    """Unquoted text in place of a value: ``True``, ``null``, ``NaN``, ``oops``."""

    __slots__ = ()


Brackets = list["Value"] | tuple[tuple[str, "Value"], ...]
"""A list, or the (key, value) pairs of a dictionary, including repeated keys."""
Value = float | str | Brackets
"""A number, quoted text (or a ``Word``), or the content of brackets."""


class Element(NamedTuple):
    """One element of a list."""

    value: Brackets | None
    """Parsed value; None if the element has a fault."""
    fault: str
    """Description of the fault; "" if it has none."""
    start: int
    """Index of its first character in the text."""
    end: int
    """Index after its last character."""


class TooComplex(NamedTuple):
    """The text exceeds a limit and was not parsed."""

    reason: str
    """Limit that it exceeds."""


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class _MalformedError(Exception):
    """Raised and caught in this file only."""


# [0-9], not \d, which takes the digits of every script.
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<open>[\[({])
      | (?P<close>[\])}])
      | (?P<mark>[,:])
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)(?![\w.+-])
      | (?P<word>[^\s\[\](){},:'"]+)
      | (?P<unclosed>.)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSES = {"[": "]", "(": ")", "{": "}"}


def read_elements(text: str, start: int, end: int) -> list[Element] | TooComplex | None:
    """Parse the elements of the list in ``text[start:end]``; ``None`` if it does not begin with a bracket.

    Accepted: a list, or elements in a row without one; commas between elements may be missing. A single flat list such
    as ``[1, 2]`` is one element. Only ``[]`` is an empty list. Of a dictionary with a list under one of ``LIST_KEYS``,
    the elements of that list are read, also if the dictionary is an element of a list. Each fault becomes one element:
    a piece that cannot be parsed, a list that is not closed (the text after its last complete element), text after the
    list. Text after an unclosed bracket or quote is not parsed, so a fault can hide elements but not add any.

    >>> [element.value for element in read_elements("[[1, 2], oops, {'a': 3}]", 0, 24)]
    [[1.0, 2.0], None, (('a', 3.0),)]
    >>> [element.fault for element in read_elements("[[1, 2], [3", 0, 11)]
    ['', 'a bracket or a quote is not closed']
    """
    tokens = _tokenize(text, start, end)
    if isinstance(tokens, TooComplex):
        return tokens
    if not tokens or tokens[0].kind != "open":
        return None
    last = len(tokens)
    first = _listed(tokens, 0, last) or 0
    close = _closing(tokens, first)
    if tokens[first].text == "{" or not any(token.kind == "open" for token in tokens[first + 1 : close]):
        if [token.text for token in tokens[first : close + 1]] == ["[", "]"] and _ends_with(tokens, first, close):
            return []
        return _elements_between(tokens, first, close + 1 if first else last)
    elements = _elements_between(tokens, first + 1, close)
    if first:
        close = max(close, _closing(tokens, 0))
    if close == last and not (elements and elements[-1].value is None and elements[-1].end == tokens[-1].end):
        elements.append(Element(None, "the list is not closed", tokens[-1].end, end))
    elif close < last - 1:
        elements.append(Element(None, "text after the list", tokens[close + 1].start, tokens[-1].end))
    return elements


def _listed(tokens: list[_Token], first: int, stop: int) -> int | None:
    """Return the index of the bracket that opens the list under one of ``LIST_KEYS`` of the dictionary at ``first``."""
    depth = 0
    for index in range(first, stop - 2 if tokens[first].text == "{" else first):
        token = tokens[index]
        depth += (token.kind == "open") - (token.kind == "close")
        is_key = depth == 1 and token.kind == "string" and token.text[1:-1].lower() in LIST_KEYS
        if is_key and tokens[index + 1].text == ":" and tokens[index + 2].text == "[":
            return index + 2
        if depth == 0:
            break
    return None


def _elements_inside(tokens: list[_Token], first: int, after: int) -> list[Element] | None:
    """Return the elements of the list that the dictionary ``tokens[first:after]`` of a list holds; None without any."""
    opening = _listed(tokens, first, after)
    if opening is None:
        return None
    close = min(_closing(tokens, opening), after)
    inside = range(opening + 1, close)
    holds_brackets = any(tokens[index].kind == "open" for index in inside)
    is_of_boxes = tokens[opening - 2].text[1:-1].lower() in _BOX_LIST_KEYS
    if is_of_boxes and inside and not any(tokens[index].text == "{" for index in inside):
        return None
    if inside and not holds_brackets:  # one flat box
        return [_element(tokens, opening, min(close + 1, after))]
    return _elements_between(tokens, opening + 1, close)


def _ends_with(tokens: list[_Token], first: int, close: int) -> bool:
    """Return True if nothing follows the list between ``first`` and ``close``, or the dictionary that holds it."""
    return (_closing(tokens, 0) if first else close) == len(tokens) - 1


def _tokenize(text: str, start: int, end: int) -> list[_Token] | TooComplex:
    """Return the tokens without spaces. After an unclosed quote, all the rest is one token of kind "unclosed"."""
    tokens = []
    depth = 0
    for match in _TOKEN.finditer(text, start, end):
        kind = match.lastgroup or ""
        if kind == "space":
            continue
        if kind == "unclosed":
            tokens.append(_Token(kind, "", match.start(), end))
            break
        if kind == "open":
            depth += 1
            if depth > MAX_DEPTH:
                return TooComplex(f"brackets more than {MAX_DEPTH} deep")
        elif kind == "close":
            depth -= 1
        tokens.append(_Token(kind, match.group(), match.start(), match.end()))
    return tokens


def _closing(tokens: list[_Token], first: int) -> int:
    """Return the index of the token that closes the bracket at ``first``; the number of tokens if none does."""
    expected = []
    for index in range(first, len(tokens)):
        token = tokens[index]
        if token.kind == "open":
            expected.append(_CLOSES[token.text])
        elif token.kind == "close":
            if token.text != expected.pop():
                return len(tokens)
            if not expected:
                return index
    return len(tokens)


def _elements_between(tokens: list[_Token], first: int, stop: int) -> list[Element]:
    """Parse the elements of ``tokens[first:stop]``; the rest after an unclosed bracket is one faulty element."""
    elements = []
    while first < stop:
        if tokens[first].text == ",":
            first += 1
            continue
        if tokens[first].kind == "open":
            after = min(_closing(tokens, first) + 1, stop)
            if (inside := _elements_inside(tokens, first, after)) is not None:
                elements += inside
                first = after
                continue
        else:
            after = first + 1
            while after < stop and tokens[after].text != "," and tokens[after].kind != "open":
                after += 1
        elements.append(_element(tokens, first, after))
        first = after
    return elements


def _element(tokens: list[_Token], first: int, after: int) -> Element:
    start, end = tokens[first].start, tokens[after - 1].end
    if tokens[first].kind != "open":
        return Element(None, "neither a list nor a dictionary", start, end)
    if _closing(tokens, first) != after - 1:
        return Element(None, "a bracket or a quote is not closed", start, end)
    try:
        value, _ = _parse_brackets(tokens, first)
    except _MalformedError as fault:
        return Element(None, str(fault), start, end)
    return Element(value, "", start, end)


def _parse(tokens: list[_Token], index: int) -> tuple[Value, int]:
    """Return the value that begins at ``index``, and the index after it. Requires balanced brackets."""
    token = tokens[index]
    if token.kind == "number":
        if sum(map(str.isdigit, token.text)) > MAX_DIGITS:
            raise _MalformedError(f"a number of more than {MAX_DIGITS} digits")
        return float(token.text), index + 1
    if token.kind == "string":
        return token.text[1:-1], index + 1
    if token.kind == "word":
        return Word(token.text), index + 1
    if token.kind != "open":
        raise _MalformedError(f"{token.text!r} in place of a value")
    return _parse_brackets(tokens, index)


def _parse_brackets(tokens: list[_Token], index: int) -> tuple[Brackets, int]:
    close = _CLOSES[tokens[index].text]
    items: list[Value] = []
    pairs: list[tuple[str, Value]] = []
    index += 1
    while tokens[index].text != close:
        if close == "}":
            key = tokens[index]
            if key.kind != "string" or tokens[index + 1].text != ":":
                raise _MalformedError(f"{key.text!r} in place of a quoted key and a colon")
            value, index = _parse(tokens, index + 2)
            pairs.append((key.text[1:-1], value))
        else:
            value, index = _parse(tokens, index)
            items.append(value)
        if tokens[index].text == ",":
            index += 1
        elif tokens[index].kind != "close":
            raise _MalformedError(f"{tokens[index].text!r} in place of a comma")
    return (tuple(pairs) if close == "}" else items), index + 1
