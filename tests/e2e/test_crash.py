"""The program that kills runs, for a moment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from runs import one_thread

CRASH = Path(__file__).parents[2] / "fuzz" / "crash.py"


def test_killed_runs_come_to_the_same_end() -> None:
    done = subprocess.run(
        [sys.executable, str(CRASH), "3", "--seed", "5"], check=False, capture_output=True, text=True, env=one_thread()
    )
    output = r"3 kills in \d runs: every run has the same result, byte by byte"
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(output, done.stdout.splitlines()[-1])
