"""What the fuzzers share: texts cut up by a seed, and so many of them in turn."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator

EVERY = 10_000


def arguments(about: str | None) -> argparse.ArgumentParser:
    """``NUMBER [--seed SEED]``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def counted(number: int) -> Iterator[int]:
    """0 to ``number - 1``; prints how many are done, the rate, and the time left."""
    began = time.perf_counter()
    for index in range(number):
        yield index
        done = index + 1
        if done % EVERY == 0:
            rate = done / (time.perf_counter() - began)
            print(f"{done:,} of {number:,}, {rate:.0f}/s, {(number - done) / rate / 60:.0f} min left", flush=True)


def cut(rng: random.Random, text: str, pieces: tuple[str, ...], *, times: int, longest: int) -> str:
    """Up to ``times`` short parts of a text left out, doubled, or replaced by one of ``pieces``."""
    for _ in range(rng.randint(0, times)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randint(0, longest))
        text = text[:start] + rng.choice((rng.choice(pieces), "", text[start:end] * 2)) + text[end:]
    return text
