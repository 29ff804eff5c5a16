"""Checkpoints: an explicit list. What is not on it may not influence the run.

The list: trained weights, optimizer state, number of steps done. All tensors are unsharded, so the files do not depend
on the world size, and any world size can resume from them. Learning rate, order of samples and random streams are pure
functions of seed and step, and need no place here.

A manifest with the size and hash of each file is written last; a folder that disagrees with its manifest is not used.
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
CHECKPOINT_SCHEMA_VERSION = 1

_FOLDER = re.compile(r"step_(\d{6,})")
_UNREADABLE = "unreadable_"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """The part of a checkpoint that is neither weights nor optimizer state."""

    num_steps: int
    """Optimizer steps done."""


def save_checkpoint(
    folder: Path,
    *,
    module: nn.Module,
    optimizer: AnyOptimizer,
    state: TrainingState,
    keep: int,
    ranks: Ranks | None = None,
) -> Path:
    """Write ``folder/step_000050``, atomically, and delete all but the latest ``keep`` checkpoints.

    A collective operation: every rank must call it, and rank 0 writes.
    """
    path = checkpoint_path(folder, state.num_steps)
    writes = ranks is None or ranks.is_first
    # Every rank gathers every sharded tensor, in the same order, also those that do not write.
    weights = {name: _unsharded(tensor, keep=writes) for name, tensor in trained_parameters(module).items()}
    optimizer_state = optimizer.state_dict()
    optimizer_state["state"] = {
        number: {name: _unsharded(value, keep=writes) for name, value in of_parameter.items()}
        for number, of_parameter in optimizer_state["state"].items()
    }
    if writes:
        _write(path, weights, optimizer_state, num_steps=state.num_steps)
        # not before the new one is complete: a crash must leave at least one checkpoint
        for old in checkpoints(folder)[:-keep]:
            remove_folder(old)
    if ranks is not None:
        ranks.barrier()
    return path


def _unsharded(value: Any, *, keep: bool) -> Any:
    """A value of the state, unsharded; on the CPU if it had to be gathered. None if ``keep`` is off."""
    if isinstance(value, DTensor) or (isinstance(value, Tensor) and is_partitioned(value)):
        value = full_tensor(value).cpu() if keep else full_tensor(value)
    return value if keep else None


def _write(path: Path, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any], *, num_steps: int) -> None:
    folder = path.parent
    make_folder(folder)
    # remains of a run that was killed while it wrote, and checkpoints that were found corrupt
    for remains in folder.iterdir():
        if remains.name.startswith(_UNREADABLE) or remains.name.endswith((UNFINISHED, OLD)):
            shutil.rmtree(remains)
    # Another name until it is complete: a folder named step_N is a checkpoint.
    new = folder / (path.name + UNFINISHED)
    new.mkdir()
    try:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, new / WEIGHTS)
        tensors, values = _split(optimizer["state"])
        save_file(tensors, new / OPTIMIZER)
        state = {"num_steps": num_steps, "optimizer": {"groups": optimizer["param_groups"], "values": values}}
        (new / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
        # On disk before the manifest is: after a power cut, a manifest implies complete files.
        for name in (WEIGHTS, OPTIMIZER, STATE):
            sync(new / name)
        manifest = {
            "schema_version": CHECKPOINT_SCHEMA_VERSION,
            "files": {n: _facts(new / n) for n in (WEIGHTS, OPTIMIZER, STATE)},
        }
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        replace_folder(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # the disk may be full: free the space again
        raise


def _split(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of an optimizer's state and its plain values, both by "NUMBER.NAME"."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    seen: set[int] = set()
    for number, of_parameter in state.items():
        for name, value in of_parameter.items():
            key = f"{number}.{name}"
            if isinstance(value, Tensor):
                # safetensors refuses two tensors that alias memory
                start = value.untyped_storage().data_ptr()
                tensors[key] = value.clone() if start in seen else value.contiguous()
                seen.add(start)
            else:
                values[key] = value
    return tensors, values


def _joined(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The inverse of ``_split``."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *values.items()):
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    return state


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def latest_checkpoint(folder: Path, log: Callable[[str], None]) -> Path | None:
    """The latest valid checkpoint; None if there is none.

    A corrupt one is logged and renamed. It is deleted only when the next checkpoint has been saved.
    """
    for path in reversed(checkpoints(folder)):
        if (problem := _problem_of(path)) is None:
            return path
        log(f"{path}: {problem}; it is renamed, and the previous checkpoint is used")
        # Not deleted yet: until another checkpoint exists, a user may want to repair it.
        aside = folder / (_UNREADABLE + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        sync(folder)
    return None


def _problem_of(path: Path) -> str | None:
    """A description of the difference between a checkpoint and its manifest; None if it is valid."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            # the size first: it is cheap and finds a file that was cut
            if (size := (path / name).stat().st_size) != facts["bytes"]:
                return f"{name} has {size} bytes; expected {facts['bytes']}"
            if _facts(path / name) != facts:
                return f"{name} has another hash than in {MANIFEST}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    return None


def load_checkpoint(path: Path, *, module: nn.Module, optimizer: AnyOptimizer) -> TrainingState:
    """Restore weights and optimizer state, of sharded tensors this rank's part, and return the rest.

    Raises ``RunError`` if the trained parameters are not those that were saved.
    """
    saved: Mapping[str, Tensor] = load_file(path / WEIGHTS)
    own = trained_parameters(module)
    if own.keys() != saved.keys():
        first = sorted(own.keys() ^ saved.keys())[0]
        raise RunError(f"{path}: the trained weights differ from those saved, the first is {first}")
    for name, parameter in own.items():
        write_full_tensor(parameter, saved[name])
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    of_optimizer = _joined(load_file(path / OPTIMIZER), state["optimizer"]["values"])
    # AdamW of FSDP2 needs each state sharded as its parameter; ZeRO's optimizer shards unsharded states itself.
    if not isinstance(optimizer, ZeroOptimizer):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, of_parameter in of_optimizer.items():
            for name, value in of_parameter.items():
                # moments have the parameter's shape, the step counter is 0-d
                if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                    of_parameter[name] = shard_like(parameters[number], value)
    optimizer.load_state_dict({"state": of_optimizer, "param_groups": state["optimizer"]["groups"]})
    return TrainingState(num_steps=state["num_steps"])


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first, not validated (see ``latest_checkpoint``)."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _FOLDER.fullmatch(path.name) and path.is_dir()), key=num_steps_of)


def checkpoint_path(folder: Path, num_steps: int) -> Path:
    """Path of the checkpoint after ``num_steps`` steps."""
    return folder / f"step_{num_steps:06d}"


def num_steps_of(checkpoint: Path) -> int:
    """The number of steps in a checkpoint's name.

    >>> num_steps_of(Path("checkpoints/step_000050"))
    50
    """
    return int(checkpoint.name.removeprefix("step_"))


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by name; tied ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
