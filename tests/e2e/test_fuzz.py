"""The fuzz tests with a few inputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"


@pytest.mark.parametrize(
    ("arguments", "last_line"),
    [
        # A busy machine can exceed the program's default time limit.
        (
            ("answers.py", "60", "--slow-s", "30"),
            "60 completions: no exception, every reward within its bounds, none slower than 30 s",
        ),
        (("files.py", "200"), "200 texts: each accepted, or refused with its place"),
        (("annotations.py", "280"), "280 files: each read, or refused by its name"),
    ],
)
def test_mutated_texts_are_read_or_refused(arguments: tuple[str, ...], last_line: str) -> None:
    command = [sys.executable, str(FUZZ / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, [last_line]), done.stderr
