"""What both files ask about. An engine takes 2 GB, so no test leaves one to the next file."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import virft


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about new classes and some that are absent."""
    folder = tmp_path_factory.mktemp("scenes") / "train"
    assert virft("build", "scenes", folder, "--classes", "novel", "--questions", 12) == 0
    return folder
