"""Checkpoints: an explicit list. What is not on it may not influence the run.

The list: trained weights, optimizer state, number of steps done. It is the same however many processes wrote it,
and any number may go on from it. Learning rate, order of samples and
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
from torch.distributed.tensor import DTensor, distribute_tensor

from virft.errors import RunError
from virft.training.ranks import Ranks, whole_tensor

_WEIGHTS, _STATE = "trained.safetensors", "state.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """What a checkpoint holds beside weights and optimizer."""

    num_steps: int


def save_checkpoint(
    folder: Path,
    *,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    keep: int,
    ranks: Ranks | None = None,
) -> Path:
    """Writes ``folder/step_000050`` (whole or not at all) and deletes all but the latest ``keep``.

    With several processes, all must call it, and the first writes.
    """
    path = folder / f"step_{state.num_steps:06d}"
    writes = ranks is None or ranks.is_first
    weights = {name: _whole(tensor, keep=writes) for name, tensor in trained_tensors(module).items()}
    optimizer_state = optimizer.state_dict()
    optimizer_state["state"] = {
        number: {name: _whole(value, keep=writes) for name, value in of_parameter.items()}
        for number, of_parameter in optimizer_state["state"].items()
    }
    if writes:
        _write(path, weights, {"optimizer": optimizer_state, "num_steps": state.num_steps}, keep=keep)
    if ranks is not None:
        ranks.wait()
    return path


def _whole(value: Any, *, keep: bool) -> Any:
    """A value that may be sharded, all of it; on the CPU if it had to be gathered. None unless it is kept."""
    if isinstance(value, DTensor):
        value = whole_tensor(value).cpu() if keep else whole_tensor(value)
    return value if keep else None


def _write(path: Path, weights: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int) -> None:
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "unfinished"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, new / _WEIGHTS)
    torch.save(state, new / _STATE)
    if path.exists():
        shutil.rmtree(path)
    new.rename(path)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(path: Path, *, module: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Puts weights and optimizer state back, of what is sharded this process's part, and returns the rest."""
    saved: Mapping[str, Tensor] = load_file(path / _WEIGHTS)
    with torch.no_grad():
        own = trained_tensors(module)
        if own.keys() != saved.keys():
            odd = sorted(own.keys() ^ saved.keys())[0]
            raise RunError(f"{path}: the weights that are trained differ from those saved, the first is {odd}")
        for name, tensor in own.items():
            tensor.copy_(_shard_like(tensor, saved[name]))
    state: dict[str, Any] = torch.load(path / _STATE, weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, of_parameter in state["optimizer"]["state"].items():
        for name, value in of_parameter.items():
            if value.shape == parameters[number].shape:
                of_parameter[name] = _shard_like(parameters[number], value)
    optimizer.load_state_dict(state["optimizer"])
    return TrainingState(num_steps=state["num_steps"])


def _shard_like(own: Tensor, whole: Tensor) -> Tensor:
    """Of a whole tensor what this process holds, if ``own`` is sharded."""
    if not isinstance(own, DTensor):
        return whole
    # no one sends anything: every process has read the whole
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("step_*")) if folder.is_dir() else []


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name; tied ones once."""
    return {name: parameter.data for name, parameter in module.named_parameters() if parameter.requires_grad}
