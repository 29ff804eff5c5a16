"""Memory of this machine's device."""

from __future__ import annotations

import os

import torch

GIB = 2**30
"""Bytes of a gibibyte."""


def device_memory() -> int:
    """Return the memory in bytes of the first GPU, or of this machine if it has none."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
