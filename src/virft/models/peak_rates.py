"""Peak rates of GPUs, for the MFU (``virft.models.operations``) and for plans. Imports no PyTorch: for reports."""

from __future__ import annotations

import re

PEAK_RATES = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""Words of a GPU's name -> dense bfloat16 operations per second of its tensor cores. Source: NVIDIA's data sheets."""

MEMORY_RATES = {
    "B200": 8.0e12,
    "H200": 4.8e12,
    "H100 NVL": 3.9e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "A100": 2.0e12,
    "L40S": 0.864e12,
    "L4": 0.3e12,
}
"""The same words -> bytes per second of its memory; A100: the one of 80 GB. Source: NVIDIA's data sheets."""


def peak_rate(name: str) -> float | None:
    """Return the peak rate of a GPU in bfloat16 operations per second by its name; None if it is not known.

    >>> peak_rate("NVIDIA H100 80GB HBM3"), peak_rate("NVIDIA L40S"), peak_rate("NVIDIA GeForce RTX 4090")
    (989000000000000.0, 362000000000000.0, None)
    """
    words = set(re.findall(r"\w+", name))
    return next((rate for key, rate in PEAK_RATES.items() if words.issuperset(key.split())), None)
