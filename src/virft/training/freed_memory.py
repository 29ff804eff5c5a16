"""Settings of the C library's allocator for memory that a step has freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_LIMIT = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc retain freed memory, so that the next step gets its pages without a page fault each; True if it does.

    By default glibc returns large tensors to the system one by one. For steps on a CPU. If a ``MALLOC_*`` variable or
    ``GLIBC_TUNABLES`` is set, the user has tuned the allocator and nothing changes; nor does it without glibc.
    Source: ``mallopt(3)``.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    # A tensor of 1 GiB or more is still returned to the system. 2 * _LIMIT - 1 is the largest C int.
    return bool(libc.mallopt(_MMAP_THRESHOLD, _LIMIT) and libc.mallopt(_TRIM_THRESHOLD, 2 * _LIMIT - 1))
