"""The device of the parity tests: a CPU, or the one that ``VIRFT_TEST_DEVICE`` names.

``cuda``: a GPU, by `make test-gpu`. ``simulated``: that of ``fake_cuda``, by ``on_fake_cuda/run.py``. On another device
than a CPU, tests without the fixture ``device`` are not run: they would be the same tests again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("VIRFT_TEST_DEVICE", "cpu")
TOLERANCES = {"cpu": 1e-5, "simulated": 1e-5, "cuda": 1e-4}
"""Largest difference of log-probs, in nats, and of gradients in float32. TF32 is off. A GPU sums in another order."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if DEVICE == "cpu":
        return
    here = Path(__file__).parent
    dropped = [one for one in items if here in one.path.parents and "device" not in getattr(one, "fixturenames", ())]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [one for one in items if one not in dropped]


@pytest.fixture
def device() -> Iterator[torch.device]:
    if DEVICE not in TOLERANCES:
        raise pytest.UsageError(f"VIRFT_TEST_DEVICE is {DEVICE!r}; expected one of {', '.join(TOLERANCES)}")
    if DEVICE == "simulated":
        from fake_cuda import CUDA, FakeCUDA

        with FakeCUDA() as gpu:
            yield CUDA
        assert gpu.num_kernels > 0, "nothing ran on the simulated device"
        return
    if DEVICE == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("VIRFT_TEST_DEVICE is cuda, and torch.cuda.is_available() is false; expected a GPU")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield torch.device(DEVICE)
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def tolerance() -> float:
    return TOLERANCES[DEVICE]
