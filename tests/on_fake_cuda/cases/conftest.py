"""The simulated device of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fake_cuda import FakeCUDA


@pytest.fixture
def gpu() -> Iterator[FakeCUDA]:
    with FakeCUDA() as gpu:
        yield gpu
