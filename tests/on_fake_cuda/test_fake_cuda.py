"""Whole steps, every family and every verb on a simulated CUDA device, in a process of its own (``run.py``).

Proves placement of tensors, dtypes under CUDA's autocast, the branches for a GPU and their numbers. Knows nothing of
CUDA's kernels, memory, streams, NCCL, bitsandbytes or vLLM.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from on_fake_cuda.run import PARITY
from runs import one_thread

HERE = Path(__file__).parent


def _not_simulated() -> str:
    """Return the reason why this machine cannot simulate a device; "" if it can."""
    if torch.version.cuda or torch.version.hip or torch.backends.mps.is_built():
        return "this build of PyTorch has a GPU of its own, which the simulation would replace"
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "no C++ compiler here"
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(_not_simulated()), reason=_not_simulated() or "none")
def test_all_cases_pass_on_a_simulated_device(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "run.py", tmp_path, "-q", "-rs"]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread(), cwd=HERE.parents[1], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # no case is skipped, and every module has some
    files = [*(HERE / "cases").glob("test_*.py"), *(HERE.parent / "parity" / name for name in PARITY)]
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    names = [node.name for module in modules for node in module.body if isinstance(node, ast.FunctionDef)]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= sum(name.startswith("test_") for name in names)
    assert "skipped" not in done.stdout
