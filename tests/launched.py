"""Verbs in two processes, without the cost of a launcher."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException

from process_cases import PRELOADED
from virft.cli.main import run


def launch(*argv: object) -> subprocess.CompletedProcess[str]:
    """A verb in two processes, which find each other as those of ``accelerate launch`` do.

    They are forked from a server that has imported what takes long: a launcher and its processes import it three times.
    """
    words = [str(argument) for argument in argv]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.set_forkserver_preload(PRELOADED)
        status = 0
        try:
            torch.multiprocessing.start_processes(
                _one_of_two, args=(words, port, folder), nprocs=2, start_method="forkserver"
            )
        except ProcessExitedException as error:
            status = error.exit_code
        printed = {
            name: "".join(Path(folder, f"{name}_{rank}").read_text() for rank in range(2)) for name in ("out", "err")
        }
    return subprocess.CompletedProcess(words, status, stdout=printed["out"], stderr=printed["err"])


def _one_of_two(rank: int, words: list[str], port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(Path(folder, f"{name}_{rank}"), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
    torch.set_num_threads(1)
    sys.argv = ["virft", *words]
    run()
