"""A vLLM server as a process that the current one starts and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

from virft.errors import ModelError
from virft.generation.vllm_engine import EngineSettings
from virft.generation.vllm_wire import LOG, ServerAddress, ServerStart, receive, send

_LAUNCHER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Set by ``accelerate launch`` for the ranks of a run; the engine is not a rank."""


class ServerProcess:
    """A server process, which ends with the process that has made it, however that ends.

    ``devices``: value of ``CUDA_VISIBLE_DEVICES``; None: not changed. ``label``: its name in messages. ``timeout_s``:
    longest time that its engine may take to start.
    """

    def __init__(
        self, settings: EngineSettings, *, num_members: int, label: str, timeout_s: float, devices: str | None = None
    ) -> None:
        self._timeout_s = timeout_s
        self._until = time.monotonic() + timeout_s
        self._is_killed = False
        self._folder = tempfile.TemporaryDirectory(prefix="virft-vllm-")
        folder = Path(self._folder.name)
        self._control, theirs = Pipe()
        environment = engine_environment(os.environ, on_cpu=settings.on_cpu, devices=devices)
        with (folder / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "virft.generation.vllm_server_main", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | {"TMPDIR": self._folder.name},
                start_new_session=True,  # to end it together with the workers of a tensor-parallel engine
            )
        theirs.close()  # or the pipe would stay open when the server has ended, and reading from it would wait forever
        where = f", GPU {devices}" if devices is not None else ""
        self.address = ServerAddress(name=f"{label} (process {self._process.pid}{where})", folder=folder)
        send(self._control, ServerStart(settings=settings, socket=self.address.socket, num_members=num_members))

    def is_starting(self) -> bool:
        """Return True if ``wait_until_ready`` would wait; may be called until that has returned."""
        return time.monotonic() < self._until and not self._control.poll()

    def wait_until_ready(self) -> None:
        """Wait until the engine is started; raises ``ModelError`` with the end of its log if that fails."""
        try:
            if not self._control.poll(max(0.0, self._until - time.monotonic())):
                failure = f"has not started within {self._timeout_s / 60:g} minutes"
            elif (refused := receive(self._control)) is not None:
                failure = f"does not start: {refused}"
            else:
                return
        except (EOFError, OSError):
            failure = f"ended with status {self._process.wait()} while it started"
        message = with_log(f"{self.address.name} {failure}", self.address)
        self.close()
        raise ModelError(message)

    def describe_end(self) -> str:
        """Kill the process if it has not ended by itself; a clause about its end."""
        try:
            return f"ended with status {self._process.wait(timeout=1)}"
        except subprocess.TimeoutExpired:
            return "was killed"
        finally:
            self._kill()

    def close(self) -> None:
        """End the process, and delete its folder."""
        self._kill()
        self._control.close()
        self._folder.cleanup()

    def _kill(self) -> None:
        """Kill the process and the workers of its engine, once: later, its id may be that of another process."""
        if not self._is_killed:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._is_killed = True


def with_log(text: str, address: ServerAddress) -> str:
    """Return a message with the end of the log of a server."""
    return f"{text}; its log ends so:\n{address.log_end()}"


def engine_environment(ours: Mapping[str, str], *, on_cpu: bool, devices: str | None = None) -> dict[str, str]:
    """Return the environment of a server process: ours without the variables of the launcher, with less logging.

    ``on_cpu``: nothing is compiled. ``devices``: value of ``CUDA_VISIBLE_DEVICES``; None: ours.
    """
    theirs = {name: value for name, value in ours.items() if name not in _LAUNCHER_VARIABLES}
    theirs.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if devices is not None:
        theirs["CUDA_VISIBLE_DEVICES"] = devices
    if on_cpu:
        # Searching for compilers takes half a minute and saves nothing.
        theirs["TORCHDYNAMO_DISABLE"] = "1"
    return theirs
