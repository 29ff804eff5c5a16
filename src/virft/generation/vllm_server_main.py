"""Entry point of a vLLM server process, which ends with its parent from its first moment on."""

from __future__ import annotations

import ctypes
import signal
import sys
from multiprocessing.connection import Connection

_PR_SET_PDEATHSIG = 1
"""Of ``linux/prctl.h``."""


def end_with_parent() -> None:
    """Have Linux kill this process when the thread that has started it ends.

    The server also ends when its pipe is closed. But the thread that reads it needs the interpreter lock, which a hung
    engine may hold, and a stopped process runs no thread.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    # Importing PyTorch takes seconds.
    from virft.generation.vllm_server import run_server

    run_server(Connection(int(sys.argv[1])))
