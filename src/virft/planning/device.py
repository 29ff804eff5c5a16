"""How much memory there is."""

from __future__ import annotations

import os

import torch


def device_memory() -> int:
    """Bytes of the first GPU, of this machine if there is none."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
