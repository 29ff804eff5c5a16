"""Messages between training processes and vLLM servers of one machine, on Unix sockets.

A message is a pickled object. Weights follow their message one by one: name, dtype and shape, then the numbers. The
sockets are in folders that only the user of the run can open.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virft.generation.vllm_engine import EngineRequest, EngineSampling, EngineSettings

LOG = "engine.log"
"""Name of a server's log in its folder."""
_SHOWN_LINES = 12
"""Lines of a server's log in the message of an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAddress:
    """A server process, as every process of its machine knows it."""

    name: str
    """Its name in messages, such as "vLLM server 1 of 2 (process 4711)"."""

    folder: Path
    """Folder of its socket and its log."""

    @property
    def socket(self) -> Path:
        """Path of the socket."""
        return self.folder / "socket"

    def log_end(self) -> str:
        """Return the last lines of its log; "" if it is deleted."""
        try:
            lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_SHOWN_LINES:])


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStart:
    """First message to a server."""

    settings: EngineSettings
    """Settings of the engine."""

    socket: Path
    """Path at which the server listens."""

    num_members: int
    """Number of the processes that sample with this server in each step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """First message of a client."""

    member: int | None
    """Number of the process among the members; None for a guest, whose own server was lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateCall:
    """Requests of one client."""

    requests: tuple[EngineRequest, ...]
    sampling: EngineSampling
    version: int
    """Number of the weights to sample with; the server waits for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsCall:
    """Weights, which follow this message."""

    version: int
    """Number of these weights."""


class _Client(Connection):
    """A connection that raises ``BlockingIOError`` at the first write that times out.

    If such a write has sent a part of its bytes, it returns their number, and ``Connection`` would wait as long again.
    """

    def __init__(self, handle: int, *, timeout_s: float) -> None:
        super().__init__(handle)
        self._timeout_s = timeout_s

    def _send(self, buf: bytes | memoryview, write: object = None) -> None:
        # Overrides a private method: it sends headers and contents.
        rest = memoryview(buf)
        while rest:
            began = time.monotonic()
            sent = os.write(self.fileno(), rest)
            rest = rest[sent:]
            if rest and time.monotonic() - began >= self._timeout_s:
                raise BlockingIOError(errno.EAGAIN, f"not sent within {self._timeout_s:g} s: {len(rest)} bytes")


def connect(path: Path, *, timeout_s: float) -> Connection:
    """Return a connection to a server's socket. Sending and receiving raise ``BlockingIOError`` after the timeout."""
    own = socket.socket(socket.AF_UNIX)
    whole, part = int(timeout_s), int(timeout_s % 1 * 1e6)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        own.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, part))
    try:
        own.connect(str(path))
    except OSError:
        own.close()
        raise
    return _Client(own.detach(), timeout_s=timeout_s)


def disconnect(connection: Connection) -> None:
    """Close a connection; a call that waits in another thread raises."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)
    connection.close()


def send(connection: Connection, message: Any) -> None:
    """Send an object."""
    # Not Connection.send: PyTorch would share the memory of tensors with the other process.
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """Return an object that ``send`` has sent; raises ``EOFError`` or ``OSError`` if the other process has ended."""
    return pickle.loads(connection.recv_bytes())


def send_weight(connection: Connection, name: str, tensor: Tensor) -> None:
    """Send one weight, of any shape and dtype."""
    send(connection, (name, tensor.dtype, tuple(tensor.shape)))
    numbers: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    connection.send_bytes(numbers)


def end_weights(connection: Connection) -> None:
    """Send that no weight follows."""
    send(connection, None)


def receive_weights(connection: Connection) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that follow, one at a time, with the shape and dtype that each was sent with."""
    while (found := receive(connection)) is not None:
        name, dtype, shape = found
        yield name, _receive_numbers(connection, dtype, shape)


def _receive_numbers(connection: Connection, dtype: torch.dtype, shape: Iterable[int]) -> Tensor:
    numbers = bytearray(connection.recv_bytes())
    return torch.frombuffer(numbers, dtype=dtype).reshape(tuple(shape))
