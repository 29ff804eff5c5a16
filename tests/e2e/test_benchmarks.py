"""The benchmarks run, and their two ways of computing agree. Times are not looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, out: Path, *options: str) -> str:
    """The text of the only result file."""
    command = [sys.executable, str(BENCHMARKS / name), "--repeats", "1", "--out", str(out), "--threads", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.md")
    return file.read_text()


def test_shared_prefix_compares_equal_computations(tmp_path: Path) -> None:
    options = ("--prompts", "40", "--images", "112", "--completions", "3", "--groups", "2", "--prefill-prompts", "2")
    text = run("shared_prefix.py", tmp_path, *options)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if re.match(r"\|\s+40", line)
    ]
    assert [row[:4] for row in rows] == [["40", "112", "3", "2"], ["40", "112", "2", "2.00"]]
    assert float(rows[0][-1]) < 1e-5


def test_a_step_without_sharing_runs_beside_ours(tmp_path: Path) -> None:
    text = run("step_against_trl.py", tmp_path, "--shapes", "40,112,3,2", "--num-prompts", "2")
    assert re.search(r"\|\s+40 \|\s+112 \|\s+3 \|\s+2 \|", text)
