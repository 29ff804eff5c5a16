"""Sampling of questions from an annotated dataset: splits, few shots per class, questions about absent classes.

A pair (image, class) is one question. Each choice depends only on names and the seed, not on the order of a file.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, TypeVar

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
    published: Mapping[str, str] = field(default_factory=dict)
    """Published part of each name, used unchanged; a fraction draws a part that is not published from "train"."""

    def split(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the sorted names of "train", "validation" and "test"; without published parts, "train" is not empty.

        A requested part has at least one name, as long as one remains for training. Augmented copies of one image, as
        Roboflow names them, are in the same part.

        >>> SplitPlan(test_frac=0.5).split(["a_jpg.rf.01.jpg", "a_jpg.rf.02.jpg"])["train"]
        ['a_jpg.rf.01.jpg', 'a_jpg.rf.02.jpg']
        """
        parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for name in set(names):
            parts[self.published.get(name, "train")].append(name)
        copies: dict[str, list[str]] = {}
        for name in parts["train"]:
            copies.setdefault(original_name(name), []).append(name)
        order = shuffled(copies, seed=self.seed, purpose="split")
        num_names = len(parts["train"])
        for part, fraction in (("test", self.test_frac), ("validation", self.validation_frac)):
            if fraction > 0.0 and part not in self.published.values():
                count = max(round(fraction * num_names), 1)
                while len(parts[part]) < count and len(order) > 1:
                    parts[part] += copies[order.pop(0)]
        return {
            "train": sorted(name for original in order for name in copies[original]),
            "validation": sorted(parts["validation"]),
            "test": sorted(parts["test"]),
        }

    def parts(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the split by folder of a build: without empty parts, and "" for the whole if it is not split.

        >>> SplitPlan(test_frac=0.5).parts(["a", "b"]).keys(), SplitPlan().parts(["b", "a"])
        (dict_keys(['train', 'test']), {'': ['a', 'b']})
        """
        return folders_of_parts(self.split(names))


def original_name(name: str) -> str:
    """Return the name of the image that a Roboflow copy was made from; any other name unchanged.

    >>> original_name("train/images/a_jpg.rf.0a1b.jpg"), original_name("b.jpg")
    ('a_jpg', 'b.jpg')
    """
    original, mark, _ = PurePosixPath(name).name.rpartition(".rf.")
    return original if mark and original else name


def is_trained_on(part: str) -> bool:
    """Return True for the training part of a build, the only one that few shots are drawn from."""
    return part in ("", "train")


def split_fractions(plan: SplitPlan) -> dict[str, Any]:
    """Return the fractions of a split, and the published parts if there are any, as a card records them."""
    published = [part for part in ("train", "validation", "test") if part in plan.published.values()]
    fractions = {"test_frac": plan.test_frac, "validation_frac": plan.validation_frac}
    return fractions | ({"published_splits": published} if published else {})


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
