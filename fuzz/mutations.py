"""Shared functions of the fuzz tests: arguments, progress, and mutations of texts."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator

EVERY = 10_000


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of ``NUMBER [--seed SEED]``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def counted(number: int) -> Iterator[int]:
    """Yield 0 to ``number - 1``; print the progress, the rate and the remaining time."""
    began = time.perf_counter()
    for index in range(number):
        yield index
        done = index + 1
        if done % EVERY == 0:
            rate = done / (time.perf_counter() - began)
            print(f"{done:,} of {number:,}, {rate:.0f}/s, {(number - done) / rate / 60:.0f} min left", flush=True)


def cut(rng: random.Random, text: str, pieces: tuple[str, ...], *, times: int, longest: int) -> str:
    """Return the text with up to ``times`` short parts removed, duplicated, or replaced by one of ``pieces``."""
    for _ in range(rng.randint(0, times)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randint(0, longest))
        text = text[:start] + rng.choice((rng.choice(pieces), "", text[start:end] * 2)) + text[end:]
    return text
