"""Sampling of questions from an annotated dataset: splits, few shots per class, questions about absent classes.

A pair (image, class) is one question. Each choice depends only on names and the seed, not on the order of a file.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from virft.errors import ConfigError

Pair = tuple[str, str]
"""Image name and class name."""
_Part = TypeVar("_Part")


def shuffled(names: Iterable[str], *, seed: int, purpose: str) -> list[str]:
    """Return the unique names in a random order; ``purpose`` gives different orders for the same seed.

    The names are sorted by a hash of each, so that an additional name does not reorder the others.

    >>> shuffled(["b", "a", "c"], seed=1, purpose="doc") == shuffled(["c", "b", "a"], seed=1, purpose="doc")
    True
    """
    return sorted(set(names), key=lambda name: (_hash(f"{seed}\0{purpose}\0{name}"), name))


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPlan:
    """Random split of names, such as images, into training, validation and test sets."""

    test_frac: float = 0.0
    """Fraction of the names in the test set."""
    validation_frac: float = 0.0
    """Fraction of the names in the validation set."""
    seed: int = 0
    """Seed of the split and of every other choice in the build."""

    def split(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the sorted names of "train", "validation" and "test"; only "train" is never empty.

        A requested part has at least one name, as long as one remains for training.
        """
        order = shuffled(names, seed=self.seed, purpose="split")
        parts: dict[str, list[str]] = {}
        start = 0
        for part, fraction in (("test", self.test_frac), ("validation", self.validation_frac)):
            spare = len(order) - start - 1
            count = min(max(round(fraction * len(order)), 1), max(spare, 0)) if fraction > 0.0 else 0
            parts[part] = sorted(order[start : start + count])
            start += count
        return {"train": sorted(order[start:]), "validation": parts["validation"], "test": parts["test"]}

    def parts(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the split by folder of a build: without empty parts, and "" for the whole if it is not split.

        >>> SplitPlan(test_frac=0.5).parts(["a", "b"]).keys(), SplitPlan().parts(["b", "a"])
        (dict_keys(['train', 'test']), {'': ['a', 'b']})
        """
        return folders_of_parts(self.split(names))


def is_trained_on(part: str) -> bool:
    """Return True for the training part of a build, the only one that few shots are drawn from."""
    return part in ("", "train")


def split_fractions(plan: SplitPlan) -> dict[str, float]:
    """Return the fractions of a split as a card records them."""
    return {"test_frac": plan.test_frac, "validation_frac": plan.validation_frac}


def folders_of_parts(parts: Mapping[str, _Part]) -> dict[str, _Part]:
    """Return the non-empty parts by folder; {"": everything} if only "train" is non-empty."""
    filled = {part: content for part, content in parts.items() if content}
    return filled if filled.keys() - {"train"} else {"": parts["train"]}


def choose_shots(
    images_of: Mapping[str, Sequence[str]], *, shots: int, seed: int, is_usable: Callable[[str], bool]
) -> list[Pair]:
    """Return exactly ``shots`` pairs of each class, sorted.

    Raises ``ConfigError`` that names all classes with fewer usable images, and the other ones.

    ``images_of``: the images that show each class. ``is_usable`` is called in random order and only until there are
    enough images, so that a large dataset is not read completely.

    >>> choose_shots({"cat": ["a", "b"]}, shots=2, seed=0, is_usable=lambda image: True)
    [('a', 'cat'), ('b', 'cat')]
    """
    drawn: dict[str, list[str]] = {}
    for name in sorted(images_of):
        order = shuffled(images_of[name], seed=seed, purpose=f"shots {name}")
        drawn[name] = list(islice(filter(is_usable, order), shots))
    if short := {name: len(images) for name, images in drawn.items() if len(images) < shots}:
        found = ", ".join(f"{name!r} ({number})" for name, number in short.items())
        rest = [name for name in drawn if name not in short]
        # A name with a comma cannot be written in the list.
        can_exclude = rest and not any("," in name for name in rest)
        way_out = f"exclude them with --classes {shlex.quote(','.join(rest))}, or lower shots" if can_exclude else ""
        raise ConfigError(f"classes with fewer than {shots} usable images (shots): {found}; {way_out or 'lower shots'}")
    return sorted((image, name) for name, images in drawn.items() for image in images)


def choose_absent(candidates: Sequence[Pair], *, num_present: int, negatives_frac: float, seed: int) -> list[Pair]:
    """Return sorted pairs of an image and an absent class that make up ``negatives_frac`` of *all* questions.

    With p present and n absent pairs, f = n / (p + n), so n = p f / (1 - f). Fewer if there are fewer candidates.

    >>> choose_absent([("a", "dog"), ("b", "cat")], num_present=3, negatives_frac=0.25, seed=0).__len__()
    1
    """
    num_absent = round(num_present * negatives_frac / (1.0 - negatives_frac))
    names = {f"{image}\0{name}": (image, name) for image, name in candidates}
    return sorted(names[key] for key in shuffled(names, seed=seed, purpose="absent")[:num_absent])


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
