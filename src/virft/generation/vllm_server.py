"""A vLLM engine in a process of its own, which samples for one training process or several.

Required on a CPU: vLLM replaces ``torch.set_num_threads`` and binds the threads of the process that it runs in.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from virft.generation.vllm_engine import EngineOutput, VLLMEngine
from virft.generation.vllm_wire import GenerateCall, Hello, ServerStart, WeightsCall, receive, receive_weights, send


class EngineServer:
    """Serves the clients of one engine, one call after another.

    The requests of all members are one batch, in the order of the members. So the batch, and with it each completion to
    the last bit, does not depend on which request came first. A guest's requests are a batch of their own.
    """

    def __init__(self, engine: Any, listener: socket.socket, num_members: int) -> None:
        self._engine = engine
        self._listener = listener
        self._num_members = num_members
        self._left: set[int] = set()
        """Members that have disconnected and not come back."""
        self._clients: dict[Connection, Hello] = {}
        self._waiting: dict[Connection, GenerateCall] = {}
        self._version = 0

    def serve(self) -> None:
        """Serve clients; never returns."""
        while True:
            for one in wait([self._listener, *self._clients]):
                if one is self._listener:
                    self._admit()
                else:
                    assert isinstance(one, Connection)
                    self._read(one)
            self._sample()

    def _admit(self) -> None:
        accepted, _ = self._listener.accept()
        connection = Connection(accepted.detach())
        try:
            hello: Hello = receive(connection)
        except (EOFError, OSError):
            connection.close()
            return
        self._clients[connection] = hello
        if hello.member is not None:
            self._left.discard(hello.member)

    def _read(self, connection: Connection) -> None:
        try:
            message = receive(connection)
            if isinstance(message, GenerateCall):
                self._waiting[connection] = message
            else:
                self._load(connection, message)
        except (EOFError, OSError):
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        """Forget a client that has ended, so that no batch waits for it."""
        self._waiting.pop(connection, None)
        member = self._clients.pop(connection).member
        # It may have connected again before its former connection is read.
        if member is not None and member not in {one.member for one in self._clients.values()}:
            self._left.add(member)
        connection.close()

    def _load(self, connection: Connection, call: WeightsCall) -> None:
        weights = receive_weights(connection)
        failure, _ = _attempt(lambda: self._engine.load_weights(weights))
        for _ in weights:  # those that a failed call has not read
            pass
        if failure is None:
            self._version = call.version
        send(connection, (failure, None))

    def _sample(self) -> None:
        """Sample for guests, and for the members if all of them have sent their requests."""
        ready = {one: call for one, call in self._waiting.items() if call.version <= self._version}
        members = [one for one in ready if self._clients[one].member is not None]
        for one in ready:
            if self._clients[one].member is None:
                self._answer([one])
        if members and len(members) == self._num_members - len(self._left):
            self._answer(sorted(members, key=lambda one: self._clients[one].member or 0))

    def _answer(self, batch: list[Connection]) -> None:
        calls = [self._waiting.pop(one) for one in batch]
        failure, outputs = _attempt(lambda: self._generate(calls))
        for i, one in enumerate(batch):
            try:
                send(one, (failure, None if outputs is None else outputs[i]))
            except OSError:
                self._drop(one)

    def _generate(self, calls: list[GenerateCall]) -> list[list[list[EngineOutput]]]:
        assert len({call.sampling for call in calls}) == 1, "the processes of a run sample with the same parameters"
        remaining = iter(self._engine.generate([one for call in calls for one in call.requests], calls[0].sampling))
        return [[next(remaining) for _ in call.requests] for call in calls]


def _attempt(call: Callable[[], Any]) -> tuple[str | None, Any]:
    """Return the message of an exception, for the other process to raise, or None and the result."""
    try:
        return None, call()
    except Exception as error:  # noqa: BLE001 - raised again by the process that called
        return f"{type(error).__name__}: {error}", None


def run_server(control: Connection) -> None:
    """Start the engine, report that on ``control``, and serve. The process ends when ``control`` is closed."""
    for one in (signal.SIGINT, signal.SIGTERM):
        # The run handles signals to all of its processes: it finishes its step, which needs the engine.
        signal.signal(one, signal.SIG_IGN)
    start: ServerStart = receive(control)
    threading.Thread(target=_end_with, args=(control,), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(start.socket))
        listener.listen()
        failure, engine = _attempt(lambda: VLLMEngine(start.settings))
        send(control, failure)
        if engine is not None:
            EngineServer(engine, listener, start.num_members).serve()


def _end_with(control: Connection) -> None:
    """Kill this process and its workers as soon as the process that has started it closes ``control``, or ends."""
    try:
        control.recv_bytes()
    except (EOFError, OSError):
        # It leads a process group of its own.
        os.killpg(os.getpid(), signal.SIGKILL)
