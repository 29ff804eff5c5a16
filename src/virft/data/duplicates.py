"""Near-duplicate images: the same image in different files. In a training and a test set, they make scores too good."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

MAX_DISTANCE = 3
"""Largest number of the 64 bits by which hashes of the same image differ after scaling or recompression."""
_MIN_BITS = 4
_NUM_LISTED = 20


def image_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: for each of 8 x 8 cells, 1 if its right neighbour is brighter.

    Nearly uniform images have hardly any bit set and cannot be compared. Source: N. Krawetz, "Kind of like that"
    (2013).
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find_duplicates(parts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """Return the sorted pairs ("part/name", "other part/name") of near-duplicate images in different parts.

    ``parts``: the hash of each image by name, for each part of a build.
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


def duplicates_for_card(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the card's entries about near-duplicates: their number and the first pairs; empty without any."""
    if not pairs:
        return {}
    return {"num_duplicate_images": len(pairs), "duplicate_images": [list(pair) for pair in pairs[:_NUM_LISTED]]}
