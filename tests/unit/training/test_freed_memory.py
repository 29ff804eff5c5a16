"""Freed memory is retained for the next step, unless the environment configures the allocator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# pages made anew by the second of two steps, each of which uses and frees 160 MiB
_SCRIPT = """
import resource, sys
from virft.training.freed_memory import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "on" else False)
def step():
    parts = [bytearray(b"x") * (40 << 20) for _ in range(4)]
    return len(parts)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(mode: str, **environment: str) -> tuple[bool, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, mode], env=kept | environment, check=True, capture_output=True, text=True
    )
    done_by_glibc, pages = done.stdout.split()
    return done_by_glibc == "True", int(pages)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt")
def test_page_faults_happen_once():
    _, without = _run("off")
    kept, with_it = _run("on")
    assert kept
    assert without > 50  # 160 MiB in pages of 2 MiB; most systems have 4 KiB
    assert with_it < without / 4


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_a_users_own_tuning_is_left_alone(name):
    value = "glibc.malloc.arena_max=4" if name == "GLIBC_TUNABLES" else "1000000"
    kept, _ = _run("on", **{name: value})
    assert not kept
