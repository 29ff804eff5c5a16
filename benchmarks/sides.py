"""Sides of a comparison: processes that take turns, each told when to run its step, each measuring itself.

A side imports only this file, so it may run under an interpreter without virft. It speaks JSON lines: it says when it
is ready, waits for a line, runs a step, reports seconds and memory, waits again.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MIB = 1 << 20
_SAMPLE_EVERY_S = 0.005


class Server:
    """A side's own end. What libraries print goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._peak = 0
        self._began = self._began_cpu = 0.0
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def ready(self, **facts: Any) -> None:
        """The model is loaded: what memory is above is counted from here. Returns when a step is wanted."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        self._say(loaded_mib=resident_bytes() / MIB, **facts)

    def done(self, **facts: Any) -> None:
        """A step is over. Returns when the next one is wanted."""
        seconds = time.perf_counter() - self._began
        cpu = time.process_time() - self._began_cpu
        self._say(seconds=seconds, cpu_seconds=cpu, peak_mib=max(self._peak, resident_bytes()) / MIB, **facts)

    def _say(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self._out, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self._peak = 0
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def _watch_memory(self) -> None:
        while True:
            self._peak = max(self._peak, resident_bytes())
            time.sleep(_SAMPLE_EVERY_S)


class Side:
    """The comparison's end of a side: ``facts`` is what it said when it was ready."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.facts = self._listen()

    def step(self) -> dict[str, Any]:
        """One step, now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._listen()

    def close(self) -> None:
        """End of the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"a side ended early:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)  # type: ignore[no-any-return]


def resident_bytes() -> int:
    """Memory of this process that is really there."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
