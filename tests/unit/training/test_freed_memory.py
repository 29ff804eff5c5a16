"""Freed memory is kept for the next step, unless the environment says how memory is handled."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# pages made anew by the second of two steps, each of which uses and frees 160 MiB
_SCRIPT = """
import resource, sys
from virft.training.freed_memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "asked" else False)
def step():
    parts = [bytearray(b"x") * (40 << 20) for _ in range(4)]
    return len(parts)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(asked: str, **environment: str) -> tuple[bool, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, asked], env=kept | environment, check=True, capture_output=True, text=True
    )
    told, pages = done.stdout.split()
    return told == "True", int(pages)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_pages_are_made_once():
    _, without = _run("not asked")
    kept, with_it = _run("asked")
    assert kept
    assert without > 50  # 160 MiB in pages of 2 MiB; most systems have 4 KiB
    assert with_it < without / 4


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_who_has_set_a_variable_knows_better(name):
    value = "glibc.malloc.arena_max=4" if name == "GLIBC_TUNABLES" else "1000000"
    kept, _ = _run("asked", **{name: value})
    assert not kept
