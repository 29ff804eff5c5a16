"""Phases of the training processes of a run with vLLM, written by the processes and read by ``engine_kills.py``."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from virft.generation.vllm_client import ServedEngine
from virft.generation.vllm_generator import VLLMGenerator
from virft.generation.vllm_process import ServerProcess
from virft.recipes import train
from virft.training.checkpoint import CheckpointWriter
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.loop import TrainingLoop

START, TRANSFER, SAMPLING, TRAINING, SAVING, BETWEEN = (
    "start", "weight transfer", "sampling", "training", "saving", "between steps",
)  # fmt: skip
OTHER, RECOVERY = "another part of a step", "recovery of servers"
PHASES = (START, TRANSFER, SAMPLING, TRAINING, SAVING)
"""Phases that kills are drawn for. Checkpoints are saved by a thread, during the next phases."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A change of phase of a training process, or the start of a server."""

    at_s: float
    """Time of the machine's monotonic clock."""
    rank: int
    pid: int
    phase: str
    step: int
    """Number of the step, from 0; -1 before the first one."""
    is_writing: bool
    """True while the thread writes a checkpoint."""
    server: int | None = None
    """Process id of a server that this process has just started."""

    @property
    def phases(self) -> set[str]:
        """The phase, and that of the thread."""
        return {self.phase} | ({SAVING} if self.is_writing else set())

    def describe(self) -> str:
        """Return the phases as text."""
        of_thread = f" and {SAVING}" if self.is_writing and self.phase != SAVING else ""
        return f"{self.phase}{of_thread}"


class PhaseWriter:
    """Appends the phases of this process to a file."""

    def __init__(self, path: Path, rank: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._rank = rank
        self._phase = START
        self._step = -1
        self._is_writing = False
        self._write()

    def trace(self) -> None:
        """Write each change of phase of this process from now on."""
        self._wrap(TrainingLoop, "_run_step", OTHER, step=lambda _, number, *rest: number)
        self._wrap(VLLMGenerator, "_prepare", TRANSFER)
        self._wrap(ServedEngine, "generate", SAMPLING)
        self._wrap(ServedEngine, "recover", RECOVERY)
        self._wrap(GRPOTrainer, "_update_policy", TRAINING)
        self._wrap(TrainingLoop, "_save", SAVING)
        self._wrap(train, "_save", SAVING)
        self._trace_thread()
        self._trace_servers()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Context manager: the phase of its block."""
        before = self._phase
        self._phase = name
        self._write()
        try:
            yield
        finally:
            # Not the start again after a step.
            self._phase = BETWEEN if before == START else before
            self._write()

    def _wrap(self, owner: Any, name: str, phase: str, *, step: Callable[..., int] | None = None) -> None:
        original = getattr(owner, name)

        def traced(*arguments: Any, **named: Any) -> Any:
            if step is not None:
                self._step = step(*arguments)
            with self.phase(phase):
                return original(*arguments, **named)

        setattr(owner, name, traced)

    def _trace_thread(self) -> None:
        original = CheckpointWriter._save_parts

        def traced(*arguments: Any) -> None:
            self._is_writing = True
            self._write()
            try:
                original(*arguments)
            finally:
                self._is_writing = False
                self._write()

        CheckpointWriter._save_parts = traced  # type: ignore[method-assign]

    def _trace_servers(self) -> None:
        original = ServerProcess.__init__

        def traced(process: ServerProcess, *arguments: Any, **named: Any) -> None:
            original(process, *arguments, **named)
            self._write(server=process._process.pid)

        ServerProcess.__init__ = traced  # type: ignore[method-assign]

    def _write(self, server: int | None = None) -> None:
        moment = Moment(
            at_s=time.monotonic(),
            rank=self._rank,
            pid=os.getpid(),
            phase=self._phase,
            step=self._step,
            is_writing=self._is_writing,
            server=server,
        )
        os.write(self._file, (json.dumps(asdict(moment)) + "\n").encode())


class PhaseReader:
    """Reads the phases of all processes of one start of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._moments: defaultdict[int, list[Moment]] = defaultdict(list)
        self.servers: dict[int, Moment] = {}
        """Moments in which servers were started, by process id."""

    def read(self) -> None:
        """Read what has been written since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                moment = Moment(**json.loads(line))
                if moment.server is not None:
                    self.servers[moment.server] = moment
                self._moments[moment.rank].append(moment)

    def latest(self, rank: int) -> Moment | None:
        """Return the last known phase of a process."""
        return self._moments[rank][-1] if self._moments[rank] else None

    def at(self, rank: int, time_s: float) -> Moment:
        """Return the phase of a process at a time."""
        return [one for one in self._moments[rank] if one.at_s <= time_s][-1]

    def seconds_from_server_to_end_of_start(self) -> float:
        """Return the time from the start of the first server to the end of the start of its process."""
        server = next(iter(self.servers.values()))
        return next(one.at_s for one in self._moments[server.rank] if one.phase != START) - server.at_s

    def mean_seconds(self, rank: int = 0) -> dict[str, float]:
        """Return the mean duration of each phase of a process that has ended."""
        moments = self._moments[rank]
        found: dict[str, float] = {}
        for phase in PHASES:
            is_in = [phase in one.phases for one in moments]
            edges = [i for i in range(1, len(moments)) if is_in[i] != is_in[i - 1]]
            begins = ([0] if is_in[0] else []) + [i for i in edges if is_in[i]]
            ends = [i for i in edges if not is_in[i]]
            spans = [moments[end].at_s - moments[begin].at_s for begin, end in zip(begins, ends, strict=True)]
            found[phase] = sum(spans) / len(spans)
        return found
