"""What the C library does with memory that a step has freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Have glibc keep memory that is freed, so that the next step need not make its pages anew; whether it does.

    Otherwise it gives large tensors back to the system one by one. For steps on a CPU. Whoever has set a ``MALLOC_*``
    variable or ``GLIBC_TUNABLES`` knows better, and nothing is changed; nor is it where there is no glibc.
    Source: ``mallopt(3)``.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    # a tensor of a GiB and more goes back all the same
    return bool(libc.mallopt(_MMAP_THRESHOLD, _KEPT) and libc.mallopt(_TRIM_THRESHOLD, 2 * _KEPT - 1))
