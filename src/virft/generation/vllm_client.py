"""vLLM servers as an ``Engine``: start them, share their work among them, and replace a lost one by another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from virft.errors import ModelError
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling, EngineSettings
from virft.generation.vllm_wire import (
    LOG,
    GenerateCall,
    Hello,
    ServerAddress,
    ServerStart,
    WeightsCall,
    connect,
    disconnect,
    end_weights,
    receive,
    send,
    send_weight,
)

_T = TypeVar("_T")

_LAUNCHER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Set by ``accelerate launch`` for the ranks of a run; the engine is not a rank."""


class ServerProcess:
    """A server process, which ends with the process that has made it, however that ends.

    ``devices``: value of ``CUDA_VISIBLE_DEVICES``; None: not changed. ``label``: its name in messages.
    """

    def __init__(self, settings: EngineSettings, *, num_members: int, label: str, devices: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="virft-vllm-")
        folder = Path(self._folder.name)
        self._control, theirs = Pipe()
        environment = engine_environment(os.environ, on_cpu=settings.on_cpu, devices=devices)
        with (folder / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "virft.generation.vllm_server", str(theirs.fileno())],
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

    def wait_until_ready(self, *, timeout_s: float) -> None:
        """Wait until the engine is started; raises ``ModelError`` with the end of its log if that fails."""
        try:
            if not self._control.poll(timeout_s):
                failure: str | None = f"has not started within {timeout_s / 60:g} minutes"
            elif (refused := receive(self._control)) is not None:
                failure = f"does not start: {refused}"
            else:
                return
        except (EOFError, OSError):
            failure = f"ended with status {self._process.wait()} while it started"
        message = _with_log(f"{self.address.name} {failure}", self.address)
        self.close()
        raise ModelError(message)

    def describe_end(self) -> str:
        """Kill the process if it has not ended by itself; a clause about its end."""
        try:
            return f"ended with status {self._process.wait(timeout=1)}"
        except subprocess.TimeoutExpired:
            self._kill()
            return "was killed"

    def close(self) -> None:
        """End the process, and delete its folder."""
        self._kill()
        self._control.close()
        self._folder.cleanup()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@dataclass(kw_only=True)
class _Server:
    """A server of this machine in the eyes of one training process."""

    address: ServerAddress
    is_own: bool
    """True if this process samples with it in each step."""
    process: ServerProcess | None
    """Set in the process that has started it, which also sends it the weights."""
    connection: Connection | None = None
    loss: str | None = None
    """Message about its loss."""


class ServedEngine:
    """An ``Engine`` in server processes.

    ``servers``: those of this machine. ``own``: indices of those that this process samples with in each step.
    ``started``: those of ``own`` that this process has started, by index. ``member``: number of this process among all
    that sample with its servers. ``timeout_s``: longest wait for an answer.

    Requests are divided evenly among the own servers. If one is lost (it has ended, has not answered in time, or has
    failed), its requests go to the others, of this process or not, now and in later steps. ``generate`` raises
    ``ModelError``, with the end of the log, if no server remains.
    """

    sleeps = False

    def __init__(
        self,
        servers: Sequence[ServerAddress],
        *,
        own: Sequence[int],
        started: Mapping[int, ServerProcess],
        member: int,
        timeout_s: float,
    ) -> None:
        self._servers = [
            _Server(address=address, is_own=i in own, process=started.get(i)) for i, address in enumerate(servers)
        ]
        self._member = member
        self._timeout_s = timeout_s
        self._version = 0
        self._new_losses: list[str] = []
        for server in self._servers:
            # A server waits for its members from the first step on.
            if server.is_own:
                self._connect(server)

    @property
    def receives_weights(self) -> bool:
        """True if this process has started a server."""
        return any(server.process is not None for server in self._servers)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Send weights by name, each of the shape of its parameter, see ``Engine.load_weights``.

        A server that is lost meanwhile is no error yet: another may sample.
        """
        self._version += 1
        served = [server for server in self._servers if server.process is not None]
        self._try_all(served, partial(send, message=WeightsCall(version=self._version)))
        for name, tensor in weights:
            self._try_all(served, partial(send_weight, name=name, tensor=tensor))
            del tensor  # before the next one is gathered
        self._try_all(served, end_weights)
        self._try_all(served, self._answer)

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        """Sample ``count`` completions for each request, in order."""
        outputs: dict[int, list[EngineOutput]] = {}
        own = [server for server in self._servers if server.is_own and server.loss is None]
        numbers = range(len(requests))
        # Also without requests: the batch of a shared server waits for all its members.
        parts: list[tuple[_Server, Sequence[int]]] = [(one, numbers[i :: len(own)]) for i, one in enumerate(own)]
        while True:
            for server, part in parts:
                mine = tuple(requests[i] for i in part)
                call = GenerateCall(requests=mine, sampling=sampling, version=self._version)
                self._try(server, partial(send, message=call))
            for server, part in parts:
                outputs |= zip(part, self._try(server, self._answer) or (), strict=False)
            missing = [i for i in numbers if i not in outputs]
            if not missing:
                return [outputs[i] for i in numbers]
            parts = [(self._replacement(), missing)]

    def lost_servers(self) -> list[str]:
        """Return a message for each server that was lost since the last call."""
        found, self._new_losses = self._new_losses, []
        return found

    def close(self) -> None:
        """End the servers that this process has started, and a call in another thread."""
        for server in self._servers:
            # That call must not go to another server.
            server.loss = server.loss or "closed"
        for server in self._servers:
            if server.connection is not None and not server.connection.closed:
                disconnect(server.connection)
            if server.process is not None:
                server.process.close()

    def _connect(self, server: _Server) -> None:
        try:
            server.connection = connect(server.address.socket, timeout_s=self._timeout_s)
            send(server.connection, Hello(member=self._member if server.is_own else None))
        except OSError as error:
            self._lose(server, error)

    def _replacement(self) -> _Server:
        """Return a server that is not lost, one of this process first; raises ``ModelError`` if there is none."""
        while candidates := [server for server in self._servers if server.loss is None]:
            own = [server for server in candidates if server.is_own] or candidates
            # Different processes choose different ones.
            server = own[self._member % len(own)]
            if server.connection is None:
                self._connect(server)
            if server.loss is None:
                return server
        losses = "\n".join(server.loss for server in self._servers if server.loss is not None)
        raise ModelError(f"no vLLM server is left to sample with: {losses}")

    def _try_all(self, servers: Iterable[_Server], call: Callable[[Connection], object]) -> None:
        for server in servers:
            self._try(server, call)

    def _try(self, server: _Server, call: Callable[[Connection], _T]) -> _T | None:
        """Call a function with the connection of a server; None if the server is lost, now or before."""
        if server.loss is not None or server.connection is None:
            return None
        try:
            return call(server.connection)
        except (EOFError, OSError, _Refused) as error:
            self._lose(server, error)
            return None

    @staticmethod
    def _answer(connection: Connection) -> list[list[EngineOutput]] | None:
        result: list[list[EngineOutput]] | None
        failure, result = receive(connection)
        if failure is not None:
            raise _Refused(failure)
        return result

    def _lose(self, server: _Server, error: Exception) -> None:
        if isinstance(error, _Refused):
            reason = f"failed: {error}"
        elif isinstance(error, BlockingIOError):
            reason = f"has not answered within {self._timeout_s / 60:g} minutes"
        else:
            reason = "is gone"
        if server.process is not None:
            reason += f" and {server.process.describe_end()}"
        server.loss = _with_log(f"{server.address.name} {reason}", server.address)
        self._new_losses.append(server.loss)
        if server.connection is not None and not server.connection.closed:
            disconnect(server.connection)


class _Refused(Exception):
    """A call that the engine of a server has raised an exception in."""


def _with_log(text: str, address: ServerAddress) -> str:
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
