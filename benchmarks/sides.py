"""Sides of a comparison: processes that run their steps in turn and measure themselves.

A side imports only this file, so that it can run under an interpreter without virft. The protocol is JSON lines: a side
reports that it is ready, waits for a line, runs a step, reports seconds and memory, and waits again.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
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
    """End of the protocol in the process of a side. The output of libraries is redirected to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._peak = 0
        self._began = self._began_cpu = 0.0
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def ready(self, **facts: Any) -> None:
        """Report that the model is loaded: memory is measured relative to now. Returns when a step is requested."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        self._say(loaded_mib=resident_bytes() / MIB, **facts)

    def done(self, **facts: Any) -> None:
        """Report that a step is done. Returns when the next one is requested."""
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


class SideEnded(SystemExit):
    """A side ended early; the end of its log is the message. ``reason``: one line. Not caught, it ends the program."""

    def __init__(self, log: str, reason: str | None = None) -> None:
        super().__init__(f"a side ended early:\n{log[-3000:]}")
        lines = log.strip().splitlines()
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        self.reason = reason or (errors or lines or ["it ended without a message"])[-1]


class Side:
    """End of the protocol in the comparing process. ``facts``: the report of the side when it was ready.

    ``limit_s``: seconds after which the side is ended, all its steps together; None: no limit. Every function raises
    ``SideEnded`` if the side has ended.
    """

    def __init__(self, command: Sequence[str], log: Path, *, limit_s: float | None = None) -> None:
        self._log = log
        self._late: str | None = None
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._timer = threading.Timer(limit_s or 0, self._end, [limit_s])
        self._timer.daemon = True
        if limit_s is not None:
            self._timer.start()
        self.facts = self._listen()

    def step(self) -> dict[str, Any]:
        """Let the side run one step and return its report."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._listen()

    def close(self) -> None:
        """End the process of the side."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._timer.cancel()

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)  # type: ignore[no-any-return]

    def _ended(self) -> SideEnded:
        self._process.wait()
        self._timer.cancel()
        return SideEnded(self._log.read_text(), self._late)

    def _end(self, limit_s: float) -> None:
        self._late = f"it was ended after {limit_s:.0f} s"
        self._process.kill()


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
