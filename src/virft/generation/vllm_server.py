"""A vLLM engine in a server process, connected by a pipe.

Required on a CPU: vLLM replaces ``torch.set_num_threads`` and binds the threads of the process that it runs in.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from virft.errors import ModelError
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling, EngineSettings, VLLMEngine

_SHOWN_LINES = 12
"""Lines of the engine's log in the message of an error."""
_LAUNCHER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Set by ``accelerate launch`` for the ranks of a run; the engine is not a rank."""


class ServedEngine:
    """An ``Engine`` in a server process, which ends with this one. Weights are sent as a file.

    Its methods raise ``ModelError``, with the end of the engine's log, if it does not start, dies, or refuses a call.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="virft-vllm-")
        self._log = Path(self._folder.name) / "engine.log"
        self._pipe, theirs = Pipe()
        self._is_busy = False
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "virft.generation.vllm_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=engine_environment(os.environ, on_cpu=settings.on_cpu) | {"TMPDIR": self._folder.name},
            )
        theirs.close()  # or the pipe would stay open when the engine has ended, and reading from it would wait forever
        try:
            self._call("start", settings)
        except ModelError:
            self.close()
            raise

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        """Sample ``count`` completions for each request, in order."""
        outputs: list[list[EngineOutput]] = self._call("generate", requests, sampling)
        return outputs

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load weights by name, each of the shape of its parameter, see ``Engine.load_weights``."""
        path = Path(self._folder.name) / "weights.safetensors"
        # Copies: safetensors refuses two names of the same memory (tied weights).
        save_file({name: tensor.to("cpu", copy=True).contiguous() for name, tensor in weights}, path)
        self._call("load_weights", path)
        path.unlink()

    def sleep(self) -> None:
        """Release the accelerator's memory until ``wake_up``."""
        self._call("sleep")

    def wake_up(self) -> None:
        """Allocate the memory again."""
        self._call("wake_up")

    def close(self) -> None:
        """End the server process, if it has not ended."""
        if self._is_busy:
            # A call was interrupted, or is running in another thread, and its result is not needed. The engine would
            # notice a closed pipe only at its end.
            self._process.kill()
        self._pipe.close()  # the engine ends by itself when its pipe is closed
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            self._is_busy = True
            # Not Connection.send: PyTorch would share the memory of tensors with the other process.
            self._pipe.send_bytes(pickle.dumps((name, arguments)))
            failure, result = pickle.loads(self._pipe.recv_bytes())
            self._is_busy = False
        except (EOFError, OSError) as error:
            status = self._process.wait()
            raise ModelError(
                f"the vLLM engine ended with status {status}; its log ends so:\n{self._log_end()}"
            ) from error
        if failure is not None:
            raise ModelError(f"vLLM: {failure}; its log ends so:\n{self._log_end()}")
        return result

    def _log_end(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_SHOWN_LINES:])


def engine_environment(ours: Mapping[str, str], *, on_cpu: bool) -> dict[str, str]:
    """Return the environment of the server process: ours without the variables of the launcher, with less logging.

    ``on_cpu``: nothing is compiled.
    """
    theirs = {name: value for name, value in ours.items() if name not in _LAUNCHER_VARIABLES}
    theirs.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu:
        # Searching for compilers takes half a minute and saves nothing.
        theirs["TORCHDYNAMO_DISABLE"] = "1"
    return theirs


def serve_engine(pipe: Connection) -> None:
    """Run calls from the pipe until it is closed: each is the name of an ``Engine`` method and its arguments."""
    for one in (signal.SIGINT, signal.SIGTERM):
        # Signals reach the whole process group. The run handles them: it finishes its step, which needs the engine.
        signal.signal(one, signal.SIG_IGN)
    engine: VLLMEngine | None = None
    while True:
        try:
            name, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        result, failure = None, None
        try:
            if name == "start":
                engine = VLLMEngine(*arguments)
            elif name == "load_weights":
                assert engine is not None
                engine.load_weights(load_file(*arguments).items())
            else:
                result = getattr(engine, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - the other process raises it
            failure = f"{type(error).__name__}: {error}"
        pipe.send_bytes(pickle.dumps((failure, result)))


if __name__ == "__main__":
    serve_engine(Connection(int(sys.argv[1])))
    os._exit(0)  # the libraries take many seconds to clean up what ends with the process anyway
