"""vLLM servers as an ``Engine``: share their work among them, replace a lost one by another, and take it back."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from torch import Tensor

from virft.errors import ModelError, SamplerLost
from virft.generation.training_process import TrainingProcess
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling
from virft.generation.vllm_process import ServerProcess, with_log
from virft.generation.vllm_wire import (
    GenerateCall,
    Hello,
    ServerAddress,
    WeightsCall,
    connect,
    disconnect,
    end_weights,
    receive,
    send,
    send_weight,
)

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarts:
    """The way in which lost servers are started again."""

    start: Callable[[int], ServerProcess]
    """From the index of a server to its new process, which need not be ready yet."""

    limit: int
    """Number of times that each server is started again, and that the run waits for one if none is left."""

    folder: tempfile.TemporaryDirectory[str] | None = None
    """Folder that a start needs."""


@dataclass(kw_only=True)
class _Server:
    """A server of this machine in the eyes of one training process."""

    index: int
    """Its number among the servers of the machine."""
    address: ServerAddress
    is_own: bool
    """True if this process samples with it in each step."""
    process: ServerProcess | None
    """Set in the process that has started it, which also sends it the weights, as long as it runs or starts again."""
    connection: Connection | None = None
    loss: str | None = None
    """Message about its loss; None if it can be used."""
    is_starting: bool = False
    """True if ``process`` is a new one that has no weights yet."""
    num_restarts: int = 0
    has_sampled: bool = False
    """True if it has answered requests since it was started."""


class _Report(NamedTuple):
    """Servers that a process has started, as it reports them to the others."""

    machine: int
    running: dict[int, ServerAddress]
    """Addresses by index."""
    has_new: bool
    """True if one of them has no weights yet."""


class ServedEngine:
    """An ``Engine`` in server processes.

    ``servers``: those of this machine. ``own``: indices of those that this process samples with in each step.
    ``started``: those of ``own`` that this process has started, by index. ``trainer``: this process among all of the
    run. ``timeout_s``: longest wait for an answer. ``restarts``: None if lost servers are not started again.

    Requests are divided evenly among the own servers. If one is lost (it has ended, has not answered in time, or has
    failed), its requests go to the others, of this process or not, and the process that has started it starts it again,
    while the others sample. ``take_back`` gives it a part of the requests again. A server that is lost before it has
    answered any request is not started again. If no server is left, ``generate`` raises ``SamplerLost``, with the end
    of the logs.
    """

    sleeps = False

    def __init__(
        self,
        servers: Sequence[ServerAddress],
        *,
        own: Sequence[int],
        started: Mapping[int, ServerProcess],
        trainer: TrainingProcess,
        timeout_s: float,
        restarts: Restarts | None = None,
    ) -> None:
        self._servers = [
            _Server(index=i, address=address, is_own=i in own, process=started.get(i))
            for i, address in enumerate(servers)
        ]
        self._trainer = trainer
        self._timeout_s = timeout_s
        self._restarts = restarts
        self._num_waits = 0
        self._ended: list[ServerProcess] = []
        self._version = 0
        self._new_messages: list[str] = []
        # A server may be lost in another thread than that which closes the engine.
        self._lock = threading.Lock()
        self._is_closed = False
        for server in self._servers:
            # A server waits for its members from the first step on.
            if server.is_own:
                self._connect(server)

    @property
    def receives_weights(self) -> bool:
        """True if this process has started a server that runs."""
        return any(server.process is not None and server.loss is None for server in self._servers)

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
        """Sample ``count`` completions for each request, in order; raises ``SamplerLost`` if no server is left."""
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
                answer = self._try(server, self._answer)
                server.has_sampled = server.has_sampled or answer is not None
                outputs |= zip(part, answer or (), strict=False)
            missing = [i for i in numbers if i not in outputs]
            if not missing:
                return [outputs[i] for i in numbers]
            parts = [(self._replacement(), missing)]

    def take_back(self) -> bool:
        """Use servers that have been started again, see ``Engine.take_back``."""
        started = self._restarted()
        mine = {one.index: one.address for one in self._servers if one.process is not None and one.loss is None}
        found = self._trainer.union([_Report(self._trainer.machine, mine, started)])
        running: dict[int, ServerAddress] = {}
        for report in found:
            if report.machine == self._trainer.machine:
                running |= report.running
        for server in self._servers:
            address = running.get(server.index)
            if address is None and server.loss is None:
                # The process that has started it has noticed its loss first.
                self._lose(server, EOFError())
            elif address is not None and (server.loss is not None or address != server.address):
                server.address, server.loss, server.connection = address, None, None
                if server.is_own:
                    self._connect(server)
        return any(report.has_new for report in found)

    def recover(self, lost: SamplerLost | None) -> bool:
        """Wait for servers to start again if a process has lost all, see ``Engine.recover``.

        Raises ``ModelError`` if none is being started.
        """
        machine = self._trainer.machine
        has_hope = any(one.process is not None for one in self._servers)
        found = self._trainer.union([(machine, has_hope, None if lost is None else str(lost))])
        losses = {where: message for where, _, message in found if message is not None}
        hopes = {where for where, hope, _ in found if hope}
        if not losses:
            return False
        limit = 0 if self._restarts is None else self._restarts.limit
        for where, message in losses.items():
            if where not in hopes or self._num_waits == limit:
                raise ModelError(message)
        self._num_waits += 1
        self._restarted(waits=True)
        return True

    def server_messages(self) -> list[str]:
        """Return a message for each server that was lost, or started again, since the last call."""
        found, self._new_messages = self._new_messages, []
        return found

    def close(self) -> None:
        """End the servers that this process has started, and a call in another thread."""
        with self._lock:
            self._is_closed = True
        for server in self._servers:
            # That call must not go to another server.
            server.loss = server.loss or "closed"
        for server in self._servers:
            if server.connection is not None and not server.connection.closed:
                disconnect(server.connection)
        for process in (*self._ended, *(one.process for one in self._servers if one.process is not None)):
            process.close()
        if self._restarts is not None and self._restarts.folder is not None:
            self._restarts.folder.cleanup()

    def _restarted(self, *, waits: bool = False) -> bool:
        """Mark the servers as usable whose new process is ready; True if there is one. ``waits``: until all are."""
        is_new = False
        for server in self._servers:
            if not server.is_starting or server.process is None:
                continue
            if not waits and server.process.is_starting():
                continue
            try:
                server.process.wait_until_ready()
            except ModelError as error:
                server.process = None
                self._new_messages.append(str(error))
            else:
                is_new = True
                server.loss = None
                server.address = server.process.address
                self._connect(server)
                self._new_messages.append(f"{server.address.name} was started again and samples from now on")
            server.is_starting = False
        return is_new

    def _connect(self, server: _Server) -> None:
        try:
            server.connection = connect(server.address.socket, timeout_s=self._timeout_s)
            send(server.connection, Hello(member=self._trainer.local_rank if server.is_own else None))
        except OSError as error:
            self._lose(server, error)

    def _replacement(self) -> _Server:
        """Return a server that is not lost, one of this process first; raises ``SamplerLost`` if there is none."""
        while candidates := [server for server in self._servers if server.loss is None]:
            own = [server for server in candidates if server.is_own] or candidates
            # Different processes choose different ones.
            server = own[self._trainer.local_rank % len(own)]
            if server.connection is None:
                self._connect(server)
            if server.loss is None:
                return server
        losses = "\n".join(server.loss for server in self._servers if server.loss is not None)
        raise SamplerLost(f"no vLLM server is left to sample with: {losses}")

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
        if server.connection is not None and not server.connection.closed:
            disconnect(server.connection)
        name, again = server.address.name, ""
        server.loss = with_log(f"{name} {reason}", server.address)
        if server.process is not None:
            again = self._start_again(server)
        self._new_messages.append(with_log(f"{name} {reason}{again}", server.address))

    def _start_again(self, server: _Server) -> str:
        """Start a lost server again if it may be; a clause about that."""
        assert server.process is not None
        with self._lock:
            if self._is_closed:
                return ""
            # Its log is in its folder, which other processes may still read.
            self._ended.append(server.process)
            server.process = None
            if self._restarts is None or server.num_restarts == self._restarts.limit:
                return ""
            if not server.has_sampled:
                return ", before it answered any request, so it is not started again"
            server.process = self._restarts.start(server.index)
            server.is_starting, server.has_sampled = True, False
            server.num_restarts += 1
        return f" and is started again ({server.num_restarts} of {self._restarts.limit})"


class _Refused(Exception):
    """A call that the engine of a server has raised an exception in."""
