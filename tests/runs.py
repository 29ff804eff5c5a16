"""Small runs of the command line, for the end-to-end tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from virft.cli.main import main

CONFIG = """
data.train = "{data}"
run.dir = "{run}"
sampling.max_completion_tokens = 48

[grpo]
steps = 3
prompts_per_step = 2
group_size = 3
learning_rate = 1e-3
kl_coef = 0.04
"""


def virft(*argv: object) -> int:
    """The exit status of a verb."""
    return main([str(argument) for argument in argv])


LAUNCHER = (
    *("-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
    # on a CPU too: with --cpu accelerate starts one process, however many it is asked for
    "--multi_gpu",
)
"""Two processes by ``accelerate launch``, as arguments of Python."""


def one_thread() -> dict[str, str]:
    """Of a process that is to compute as others do: sums are taken in another order with more threads."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def write_config(folder: Path, data: Path, *, extra: str = "") -> Path:
    """A config of three small steps with its run in ``folder/run``; ``extra`` TOML goes first."""
    path = folder / "config.toml"
    path.write_text(extra + CONFIG.format(data=data, run=folder / "run"))
    return path


def log(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The records of a log."""
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see whether one was touched."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def saved_weights(checkpoint: Path) -> dict[str, Any]:
    """The trained weights of a checkpoint of one process or of several."""
    import torch
    from safetensors.torch import load_file
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    if (checkpoint / "trained.safetensors").exists():
        return load_file(checkpoint / "trained.safetensors")
    reader = HuggingFaceStorageReader(str(checkpoint / "trained"))
    found = reader.read_metadata().state_dict_metadata
    weights: dict[str, Any] = {name: torch.empty(one.size) for name, one in found.items()}  # type: ignore[union-attr]
    load(weights, storage_reader=reader, no_dist=True)
    return weights
