"""Checkpoints: an explicit list. What is not on it may not influence the run.

The list: trained weights, optimizer state, number of steps done. Learning rate, order of samples and
noise are pure functions of seed and step, so they need no place here.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from virft.errors import RunError

_WEIGHTS, _STATE = "trained.safetensors", "state.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """What a checkpoint holds beside weights and optimizer."""

    num_steps: int


def save_checkpoint(
    folder: Path, *, module: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState, keep: int
) -> Path:
    """Writes ``folder/step_000050`` (whole or not at all) and deletes all but the latest ``keep``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{state.num_steps:06d}"
    new = folder / "unfinished"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in trained_tensors(module).items()}, new / _WEIGHTS)
    torch.save(
        {
            "optimizer": optimizer.state_dict(),
            "num_steps": state.num_steps,
        },
        new / _STATE,
    )
    if path.exists():
        shutil.rmtree(path)
    new.rename(path)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def load_checkpoint(path: Path, *, module: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Puts weights and optimizer state back and returns the rest."""
    saved: Mapping[str, Tensor] = load_file(path / _WEIGHTS)
    with torch.no_grad():
        own = trained_tensors(module)
        if own.keys() != saved.keys():
            odd = sorted(own.keys() ^ saved.keys())[0]
            raise RunError(f"{path}: the weights that are trained differ from those saved, the first is {odd}")
        for name, tensor in own.items():
            tensor.copy_(saved[name])
    state: dict[str, Any] = torch.load(path / _STATE, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return TrainingState(num_steps=state["num_steps"])


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("step_*")) if folder.is_dir() else []


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name; tied ones once."""
    return {name: parameter.data for name, parameter in module.named_parameters() if parameter.requires_grad}
