"""Which questions of a labelled set are asked: splits, few shots per class, questions about absent classes.

A pair (image, class) is one question. Every choice depends on names and the seed alone, never on the
order of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from virft.errors import ConfigError

Pair = tuple[str, str]
"""Image name and class name."""
_Part = TypeVar("_Part")


def shuffled(names: Iterable[str], *, seed: int, purpose: str) -> list[str]:
    """The names in an order drawn by seed; ``purpose`` keeps two uses of one seed apart.

    Sorted by a hash of each name, so one more name moves no other.

    >>> shuffled(["b", "a", "c"], seed=1, purpose="doc") == shuffled(["c", "b", "a"], seed=1, purpose="doc")
    True
    """
    return sorted(set(names), key=lambda name: (_hash(f"{seed}\0{purpose}\0{name}"), name))


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPlan:
    """Which share of the names is kept for a test set, and which for validation while a model is trained."""

    test_frac: float = 0.0
    validation_frac: float = 0.0
    seed: int = 0

    def split(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Names of "train", "validation" and "test", each sorted; only the first is never empty.

        A part that is asked for gets at least one name while another is left to train on.
        """
        order = shuffled(names, seed=self.seed, purpose="split")
        parts: dict[str, list[str]] = {}
        start = 0
        for part, share in (("test", self.test_frac), ("validation", self.validation_frac)):
            spare = len(order) - start - 1
            count = min(max(round(share * len(order)), 1), max(spare, 0)) if share > 0.0 else 0
            parts[part] = sorted(order[start : start + count])
            start += count
        return {"train": sorted(order[start:]), "validation": parts["validation"], "test": parts["test"]}

    def parts(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The same by folder of a build: without empty parts, and "" if there is but one.

        >>> SplitPlan(test_frac=0.5).parts(["a", "b"]).keys(), SplitPlan().parts(["b", "a"])
        (dict_keys(['train', 'test']), {'': ['a', 'b']})
        """
        return one_folder_if_whole(self.split(names))


def is_trained_on(part: str) -> bool:
    """Whether a part of a build is the one that models are trained on: few shots are drawn from it alone."""
    return part in ("", "train")


def shares(plan: SplitPlan) -> dict[str, float]:
    """What a card says of a split."""
    return {"test_frac": plan.test_frac, "validation_frac": plan.validation_frac}


def one_folder_if_whole(parts: Mapping[str, _Part]) -> dict[str, _Part]:
    """Parts that hold something by folder; "" for the whole if none but "train" does."""
    filled = {part: content for part, content in parts.items() if content}
    return filled if filled.keys() - {"train"} else {"": parts["train"]}


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
