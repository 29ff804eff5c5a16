"""Data sets that several end-to-end tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import virft


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``test`` of built-in scenes: 11 and 8 questions. Tests only read them."""
    folder = tmp_path_factory.mktemp("scenes")
    assert virft("build", "scenes", folder / "train", "--classes", "novel", "--shots", 1) == 0
    assert virft("build", "scenes", folder / "test", "--classes", "novel", "--questions", 8) == 0
    return folder
