"""Run ``cases`` and parity tests on a simulated CUDA device: ``python run.py FOLDER [pytest arguments]``.

A process of its own: PyTorch looks up the hooks of a device once, when it is imported, and the simulation replaces
functions of PyTorch. ``FOLDER``: the guard (``guard.cpp``) is compiled into it, unless it already holds the library.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PARITY = ("test_shared_prompt.py", "test_sliding_window.py")
"""Parity tests whose placement of tensors is proved here; the others run on a CPU, and on a GPU by `make test-gpu`."""
COMPILERS = ("g++", "clang++", "c++")


def compile_guard(folder: Path) -> Path:
    """Return the path of the compiled guard in ``folder``."""
    library = folder / "libfakecuda.so"
    if not library.exists():
        compiler = next(filter(None, map(shutil.which, COMPILERS)))
        spec = find_spec("torch")
        assert spec is not None and spec.origin is not None
        torch = Path(spec.origin).parent
        options = ["-std=c++20", "-O1", "-shared", "-fPIC", f"-I{torch / 'include'}", f"-L{torch / 'lib'}"]
        links = [f"-Wl,-rpath,{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
        subprocess.run([compiler, *options, str(HERE / "guard.cpp"), *links, "-o", str(library)], check=True)
    return library


def main(folder: Path, arguments: list[str]) -> int:
    """Run pytest on the cases; return its exit status."""
    ctypes.CDLL(str(compile_guard(folder))).register_fake_cuda()
    sys.path.insert(0, str(HERE.parent))
    import fake_cuda

    fake_cuda.replace_inference_mode()
    import pytest

    os.environ["VIRFT_TEST_DEVICE"] = "simulated"
    folders = [HERE / "cases", *(HERE.parent / "parity" / name for name in PARITY)]
    return int(pytest.main([*map(str, folders), "-p", "no:xdist", "-p", "no:cacheprovider", *arguments]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
