"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """One thread for each worker: several workers with a thread per core each would wait for one another."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Read by PyTorch when it is first imported, so tests without it need not import it.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is no accelerator."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no accelerator here"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; the test is skipped where it is not given."""
    place = os.environ.get("VIRFT_TEST_DATA", "")
    if not place or not Path(place).is_dir():
        pytest.skip(f"VIRFT_TEST_DATA is {place!r}; expected the folder that holds raccoon/ and bccd/")
    return Path(place)
