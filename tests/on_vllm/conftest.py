"""Data shared by the test files. An engine takes 2 GB, so each file ends its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import virft


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a dataset of novel classes, some of them absent."""
    folder = tmp_path_factory.mktemp("scenes") / "train"
    assert virft("build", "scenes", folder, "--classes", "novel", "--questions", 12) == 0
    return folder
