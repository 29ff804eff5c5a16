"""Pictures that look the same though their files differ: in training and test they make scores too good."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

MAX_DISTANCE = 3
"""Bits of 64 by which two hashes of one picture may differ: after scaling or new compression."""
_MIN_BITS = 4
_TOLD = 20


def picture_hash(image: Image.Image) -> int:
    """64 bits: whether each of 9 x 8 cells is darker than its right neighbour (difference hash).

    Nearly even pictures have hardly any bit and say nothing. Source: N. Krawetz, "Kind of like that" (2013).
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def same_pictures(parts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """("part/name", "other/name") of every two pictures of different parts whose hashes are as good as equal.

    ``parts``: hash by name, by part.
    """
    found = []
    for (first, left), (second, right) in combinations(parts.items(), 2):
        names = [[name for name, bits in side.items() if bits.bit_count() >= _MIN_BITS] for side in (left, right)]
        hashes = [
            np.array([side[name] for name in chosen], dtype=np.uint64)
            for side, chosen in zip((left, right), names, strict=True)
        ]
        for name, bits in zip(names[0], hashes[0], strict=True):
            near = np.flatnonzero(np.bitwise_count(hashes[1] ^ bits) <= MAX_DISTANCE)
            found += [(f"{first}/{name}", f"{second}/{names[1][at]}") for at in near]
    return sorted(found)


def told(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """What a card says of them: how many, and the first."""
    return {"num_same_pictures": len(pairs), "same_pictures": [list(pair) for pair in pairs[:_TOLD]]} if pairs else {}
