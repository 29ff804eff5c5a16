"""Checkpoints: an explicit list. What is not on it may not influence the run.

The list: trained weights, optimizer state, number of steps done. It is the same however many processes wrote it,
and any number may go on from it. Learning rate, order of samples and
noise are pure functions of seed and step, so they need no place here.

A manifest with the size and hash of each file is written last: a folder that does not agree with its own is not used.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from virft.errors import RunError
from virft.files import OLD, UNFINISHED, make_folder, remove_folder, replace_folder, sync
from virft.models.sharding import full_tensor, is_partitioned, shard_like, write_full_tensor
from virft.training.distributed import Ranks
from virft.training.zero import AnyOptimizer, ZeroOptimizer

WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "trained.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)
SCHEMA_VERSION = 1

_FOLDER = re.compile(r"step_(\d{6,})")
_UNREADABLE = "unreadable_"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """What a checkpoint holds beside weights and optimizer."""

    num_steps: int


def save_checkpoint(
    folder: Path,
    *,
    module: nn.Module,
    optimizer: AnyOptimizer,
    state: TrainingState,
    keep: int,
    ranks: Ranks | None = None,
) -> Path:
    """Writes ``folder/step_000050`` (whole or not at all) and deletes all but the latest ``keep``.

    With several processes, all must call it, and the first writes.
    """
    path = checkpoint_path(folder, state.num_steps)
    writes = ranks is None or ranks.is_first
    weights = {name: _whole(tensor, keep=writes) for name, tensor in trained_parameters(module).items()}
    optimizer_state = optimizer.state_dict()
    optimizer_state["state"] = {
        number: {name: _whole(value, keep=writes) for name, value in of_parameter.items()}
        for number, of_parameter in optimizer_state["state"].items()
    }
    if writes:
        _write(path, weights, optimizer_state, num_steps=state.num_steps)
        for old in checkpoints(folder)[:-keep]:
            remove_folder(old)
    if ranks is not None:
        ranks.wait()
    return path


def _whole(value: Any, *, keep: bool) -> Any:
    """A value that may be sharded, all of it; on the CPU if it had to be gathered. None unless it is kept."""
    if isinstance(value, DTensor) or (isinstance(value, Tensor) and is_partitioned(value)):
        value = full_tensor(value).cpu() if keep else full_tensor(value)
    return value if keep else None


def _write(path: Path, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any], *, num_steps: int) -> None:
    folder = path.parent
    make_folder(folder)
    for left in folder.iterdir():
        if left.name.startswith(_UNREADABLE) or left.name.endswith((UNFINISHED, OLD)):
            shutil.rmtree(left)
    new = folder / (path.name + UNFINISHED)
    new.mkdir()
    try:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, new / WEIGHTS)
        tensors, values = _apart(optimizer["state"])
        save_file(tensors, new / OPTIMIZER)
        state = {"num_steps": num_steps, "optimizer": {"groups": optimizer["param_groups"], "values": values}}
        (new / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
        for name in (WEIGHTS, OPTIMIZER, STATE):
            sync(new / name)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "files": {n: _facts(new / n) for n in (WEIGHTS, OPTIMIZER, STATE)},
        }
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        replace_folder(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # a full disk is not to stay full of this
        raise


def _apart(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of an optimizer's state and its plain values, both by "NUMBER.NAME". No two tensors share memory."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    seen: set[int] = set()
    for number, of_parameter in state.items():
        for name, value in of_parameter.items():
            key = f"{number}.{name}"
            if isinstance(value, Tensor):
                start = value.untyped_storage().data_ptr()
                tensors[key] = value.clone() if start in seen else value.contiguous()
                seen.add(start)
            else:
                values[key] = value
    return tensors, values


def _together(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The way back from ``_apart``."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *values.items()):
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    return state


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def latest_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The latest checkpoint that is as it was written; None if there is none.

    One that is not is told of and set aside, and is deleted when the next one has been saved.
    """
    for path in reversed(checkpoints(folder)):
        if (problem := _problem_of(path)) is None:
            return path
        say(f"{path}: {problem}; it is set aside, and the one before it is used")
        aside = folder / (_UNREADABLE + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        sync(folder)
    return None


def _problem_of(path: Path) -> str | None:
    """Why a checkpoint is not as it was written, in words."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            if (size := (path / name).stat().st_size) != facts["bytes"]:
                return f"{name} has {size} bytes; expected {facts['bytes']}"
            if _facts(path / name) != facts:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    return None


def load_checkpoint(path: Path, *, module: nn.Module, optimizer: AnyOptimizer) -> TrainingState:
    """Puts weights and optimizer state back, of what is sharded this process's part, and returns the rest."""
    saved: Mapping[str, Tensor] = load_file(path / WEIGHTS)
    own = trained_parameters(module)
    if own.keys() != saved.keys():
        odd = sorted(own.keys() ^ saved.keys())[0]
        raise RunError(f"{path}: the weights that are trained differ from those saved, the first is {odd}")
    for name, parameter in own.items():
        write_full_tensor(parameter, saved[name])
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    of_optimizer = _together(load_file(path / OPTIMIZER), state["optimizer"]["values"])
    if not isinstance(optimizer, ZeroOptimizer):  # which takes the whole
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, of_parameter in of_optimizer.items():
            for name, value in of_parameter.items():
                if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                    of_parameter[name] = shard_like(parameters[number], value)
    optimizer.load_state_dict({"state": of_optimizer, "param_groups": state["optimizer"]["groups"]})
    return TrainingState(num_steps=state["num_steps"])


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first. Whether they are whole, ``latest_checkpoint`` finds out."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _FOLDER.fullmatch(path.name) and path.is_dir()), key=num_steps_of)


def checkpoint_path(folder: Path, num_steps: int) -> Path:
    """Where the checkpoint of so many steps is."""
    return folder / f"step_{num_steps:06d}"


def num_steps_of(checkpoint: Path) -> int:
    """The number of steps done that a checkpoint's name says.

    >>> num_steps_of(Path("checkpoints/step_000050"))
    50
    """
    return int(checkpoint.name.removeprefix("step_"))


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name; tied ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
