"""The vLLM engine in a process of its own, spoken to through a pipe.

On a CPU it must be: vLLM replaces ``torch.set_num_threads`` and binds the threads of the process it runs in.
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
from virft.generation.vllm_engine import EngineAnswer, EngineRequest, EngineSampling, EngineSettings, VLLMEngine

_TOLD_LINES = 12
"""Lines of the engine's own log that are shown when it fails."""
_OF_THE_LAUNCHER = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""What ``accelerate launch`` tells a process about its like; the engine is none of them."""


class ServedEngine:
    """An ``Engine`` in a process of its own, which ends with this one. Weights go through a file.

    Raises ``ModelError`` with the end of the engine's log where it does not start, ends, or refuses a request.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="virft-vllm-")
        self._log = Path(self._folder.name) / "engine.log"
        self._pipe, theirs = Pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "virft.generation.vllm_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=engine_environment(os.environ, on_cpu=settings.on_cpu) | {"TMPDIR": self._folder.name},
            )
        theirs.close()  # ours would keep the pipe open when the engine has ended
        try:
            self._call("start", settings)
        except ModelError:
            self.close()
            raise

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineAnswer]]:
        """``count`` answers to each request, in order."""
        made: list[list[EngineAnswer]] = self._call("generate", requests, sampling)
        return made

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Weights by the names that transformers gives them; all parts of a layer at once. Caches are emptied."""
        path = Path(self._folder.name) / "weights.safetensors"
        # Copies: safetensors writes no two names of one memory.
        save_file({name: tensor.to("cpu", copy=True).contiguous() for name, tensor in weights}, path)
        self._call("load_weights", path)
        path.unlink()

    def sleep(self) -> None:
        """Give the accelerator's memory back until ``wake_up``."""
        self._call("sleep")

    def wake_up(self) -> None:
        """Take the memory again."""
        self._call("wake_up")

    def close(self) -> None:
        """End the process; nothing to do where it has ended."""
        self._pipe.close()  # at the end of its pipe the engine ends by itself
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            # Not Connection.send, by which PyTorch would share the tensors' memory with the other process.
            self._pipe.send_bytes(pickle.dumps((name, arguments)))
            failure, result = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            status = self._process.wait()
            raise ModelError(f"the vLLM engine ended with status {status}; its log ends so:\n{self._told()}") from error
        if failure is not None:
            raise ModelError(f"vLLM: {failure}; its log ends so:\n{self._told()}")
        return result

    def _told(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TOLD_LINES:])


def engine_environment(ours: Mapping[str, str], *, on_cpu: bool) -> dict[str, str]:
    """Environment of the engine's process: ours without the launcher's part, and vLLM told to say little.

    On a CPU nothing is compiled: looking for compilers takes half a minute and saves nothing.
    """
    theirs = {name: value for name, value in ours.items() if name not in _OF_THE_LAUNCHER}
    theirs.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu:
        theirs["TORCHDYNAMO_DISABLE"] = "1"
    return theirs


def serve(pipe: Connection) -> None:
    """Do what comes through the pipe until it is closed: the name of a method of ``Engine`` and its arguments."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # it is for the run, which ends after the step in hand
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
        except Exception as error:  # noqa: BLE001 - the other side raises it
            failure = f"{type(error).__name__}: {error}"
        pipe.send_bytes(pickle.dumps((failure, result)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
    os._exit(0)  # the libraries take many seconds to clean up what ends with the process anyway
