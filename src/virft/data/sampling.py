"""Which questions of a labelled set are asked: splits, few shots per class, questions about absent classes.

A pair (image, class) is one question. Every choice depends on names and the seed alone, never on the
order of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from virft.errors import ConfigError

Pair = tuple[str, str]
"""Image name and class name."""


def shuffled(names: Iterable[str], *, seed: int, purpose: str) -> list[str]:
    """The names in an order drawn by seed; ``purpose`` keeps two uses of one seed apart.

    Sorted by a hash of each name, so one more name moves no other.

    >>> shuffled(["b", "a", "c"], seed=1, purpose="doc") == shuffled(["c", "b", "a"], seed=1, purpose="doc")
    True
    """
    return sorted(set(names), key=lambda name: (_hash(f"{seed}\0{purpose}\0{name}"), name))


def split_names(names: Iterable[str], *, test_frac: float, seed: int) -> tuple[list[str], list[str]]:
    """Train and test names, each sorted. At least one of each if there are two names or more."""
    order = shuffled(names, seed=seed, purpose="split")
    num_test = round(test_frac * len(order))
    if test_frac > 0.0 and len(order) > 1:
        num_test = min(max(num_test, 1), len(order) - 1)
    return sorted(order[num_test:]), sorted(order[:num_test])


def choose_shots(
    images_of: Mapping[str, Sequence[str]], *, shots: int, seed: int, is_usable: Callable[[str], bool]
) -> list[Pair]:
    """Exactly ``shots`` pairs of every class, sorted. A class with fewer usable images is an error.

    ``images_of`` gives, per class, the images that show it. ``is_usable`` is asked in the order of
    the draw, and only until there are enough, so a large set is not read whole.

    >>> choose_shots({"cat": ["a", "b"]}, shots=2, seed=0, is_usable=lambda image: True)
    [('a', 'cat'), ('b', 'cat')]
    """
    pairs: list[Pair] = []
    for name in sorted(images_of):
        order = shuffled(images_of[name], seed=seed, purpose=f"shots {name}")
        images = list(islice(filter(is_usable, order), shots))
        if len(images) < shots:
            raise ConfigError(f"class {name!r} is on {len(images)} usable images; expected at least {shots} (shots)")
        pairs += [(image, name) for image in images]
    return sorted(pairs)


def choose_absent(candidates: Sequence[Pair], *, num_present: int, negatives_frac: float, seed: int) -> list[Pair]:
    """Pairs of an image and a class it does not show: the stated share of *all* questions, sorted.

    n absent of p + n questions are f = n / (p + n), so n = p f / (1 - f). Fewer if there are not as
    many candidates.

    >>> choose_absent([("a", "dog"), ("b", "cat")], num_present=3, negatives_frac=0.25, seed=0).__len__()
    1
    """
    wanted = round(num_present * negatives_frac / (1.0 - negatives_frac))
    names = {f"{image}\0{name}": (image, name) for image, name in candidates}
    return sorted(names[key] for key in shuffled(names, seed=seed, purpose="absent")[:wanted])


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
