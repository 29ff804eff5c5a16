"""Checkpoints: an explicit list. What is not on it may not influence the run.

The list: trained weights, optimizer state, number of steps done, and the completions that are sampled ahead, by weights
that are gone later (``sampling.max_staleness``). Learning rate, order of samples and random streams are pure functions
of seed and step, and need no place here.

One process, and ZeRO, write whole tensors: ``trained.safetensors`` and ``optimizer.safetensors``. Several processes
write a part each, in folders of those names, in the safetensors format of ``torch.distributed.checkpoint``. Any world
size can resume from either.

A manifest with the size and hash of each file is written last; a folder that disagrees with its manifest is not used.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
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
IN_FLIGHT = "groups_in_flight.jsonl"
"""Completions that are sampled ahead; a checkpoint without any has no such file."""
TRAINED_PARTS, OPTIMIZER_PARTS = "trained", "optimizer"
"""Folders with the parts of several processes."""
CHECKPOINT_SCHEMA_VERSION = 1

_WRITE_TIMEOUT = datetime.timedelta(days=1)
"""Longest wait for the parts of the others. A process that ends closes its connection, which is noticed immediately."""
_T = TypeVar("_T")

_FOLDER = re.compile(r"step_(\d{6,})")
_UNREADABLE = "unreadable_"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """The part of a checkpoint that is neither weights nor optimizer state."""

    num_steps: int
    """Optimizer steps done."""
    in_flight: str = ""
    """Content of ``IN_FLIGHT``: what the trainer has begun of later steps. Empty: nothing."""


class CheckpointWriter:
    """Writes the checkpoints of a run into ``folder``, and deletes all but the latest ``keep``.

    Each appears complete or not at all. With several processes ``save`` only copies weights and states to main memory;
    a background thread of each process writes its part while training continues. Every process must call ``save`` and
    ``wait`` at the same steps. One process writes in ``save``: a copy of everything would need the memory again, and
    the write takes seconds of a run of hours.
    """

    def __init__(self, folder: Path, *, keep: int, ranks: Ranks | None = None, in_background: bool = False) -> None:
        """``in_background``: not for ZeRO, whose states are gathered. Then a process group must exist."""
        self._folder = folder
        self._keep = keep
        self._ranks = ranks or Ranks()
        self._pool: ThreadPoolExecutor | None = None
        self._group: Any = None
        self._pending: Future[None] | None = None
        if in_background:
            # Collectives of the thread must not come between those of the steps, and those of NCCL need a GPU.
            self._group = dist.new_group(backend="gloo", timeout=_WRITE_TIMEOUT)
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(self, module: nn.Module, optimizer: AnyOptimizer, state: TrainingState) -> None:
        """Save weights and states as they are now in ``step_N`` of the folder; waits for an earlier save first.

        A collective operation. Raises the error of this save, or of the earlier one in the background.
        """
        self.wait()
        path = checkpoint_path(self._folder, state.num_steps)
        if self._pool is None:
            self._save_whole(path, module, optimizer, state)
            return
        weights = {name: _copied(one) for name, one in trained_parameters(module).items()}
        optimizer_state = optimizer.state_dict()
        tensors, values = _split(optimizer_state["state"], _copied)
        texts = _texts(state, optimizer_state["param_groups"], values)
        self._pending = self._pool.submit(self._save_parts, path, weights, tensors, texts)

    @property
    def has_failed(self) -> bool:
        """True if a save in the background has ended with an error, which ``wait`` raises."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def wait(self) -> None:
        """Block until the last save is complete on disk; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Complete the last save. If the block has failed, its own error is raised and not that of the save."""
        try:
            with suppress(*((Exception,) if kind is not None else ())):
                self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()

    def _save_whole(self, path: Path, module: nn.Module, optimizer: AnyOptimizer, state: TrainingState) -> None:
        writes = self._ranks.is_first
        # Every rank gathers every sharded tensor, in the same order, also those that do not write.
        weights = {name: _unsharded(tensor, keep=writes) for name, tensor in trained_parameters(module).items()}
        optimizer_state = optimizer.state_dict()
        optimizer_state["state"] = {
            number: {name: _unsharded(value, keep=writes) for name, value in of_parameter.items()}
            for number, of_parameter in optimizer_state["state"].items()
        }
        if writes:
            tensors, values = _split(optimizer_state["state"], _without_alias())
            texts = _texts(state, optimizer_state["param_groups"], values)
            new = _begin(path)
            try:
                save_file({name: tensor.contiguous() for name, tensor in weights.items()}, new / WEIGHTS)
                save_file(tensors, new / OPTIMIZER)
                for name in (WEIGHTS, OPTIMIZER):
                    sync(new / name)
                self._complete(new, path, texts, {name: _facts(new / name) for name in (WEIGHTS, OPTIMIZER)})
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)  # the disk may be full: free the space again
                raise
        self._ranks.barrier()

    def _save_parts(
        self, path: Path, weights: dict[str, Tensor], optimizer: dict[str, Tensor], texts: Mapping[str, str]
    ) -> None:
        """Write the parts of all processes; runs in the thread of each."""
        new = _unfinished(path)
        is_first = self._ranks.is_first
        try:
            self._together(lambda: _begin(path) if is_first else None)
            self._together(lambda: self._write_part(new / TRAINED_PARTS, weights))
            self._together(lambda: self._write_part(new / OPTIMIZER_PARTS, optimizer))
            # Each process hashes what it has written, and what is then still in its memory.
            parts = self._together(lambda: _facts_of_part(new, self._ranks.index))
            facts = {name: fact for part in parts for name, fact in part.items()}
            self._together(lambda: self._complete(new, path, texts, facts) if is_first else None)
        except BaseException:
            if is_first:
                shutil.rmtree(new, ignore_errors=True)
            raise

    def _write_part(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        try:
            save(tensors, storage_writer=writer, process_group=self._group)
        except CheckpointException as error:
            # A full disk must be recognized as one, whichever process has found it.
            full = (one for one, _ in error.failures.values() if isinstance(one, OSError))
            raise next(full, RuntimeError(str(error))) from error

    def _together(self, action: Callable[[], _T]) -> list[_T]:
        """Run an action in every process; the results of all. If it fails in one, it fails in all."""
        try:
            result = action()
        except BaseException as error:
            # Another exception may not survive being sent.
            self._gather(error if isinstance(error, OSError) else RuntimeError(f"{type(error).__name__}: {error}"))
            raise
        found = self._gather(result)
        for one in found:
            if isinstance(one, Exception):
                raise one
        return found

    def _gather(self, mine: Any) -> list[Any]:
        found: list[Any] = [None] * self._ranks.count
        dist.all_gather_object(found, mine, group=self._group)
        return found

    def _complete(self, new: Path, path: Path, texts: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        """Write text files and manifest, give the checkpoint its name, and delete the oldest ones."""
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
            # On disk before the manifest is, as all other files: after a power cut, a manifest implies complete files.
            sync(new / name)
        manifest = {
            "schema_version": CHECKPOINT_SCHEMA_VERSION,
            "files": {**facts, **{name: _facts(new / name) for name in texts}},
        }
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        replace_folder(new, path)
        # not before the new one is complete: a crash must leave at least one checkpoint
        for old in checkpoints(self._folder)[: -self._keep]:
            remove_folder(old)


def save_checkpoint(
    folder: Path,
    *,
    module: nn.Module,
    optimizer: AnyOptimizer,
    state: TrainingState,
    keep: int,
    ranks: Ranks | None = None,
) -> Path:
    """Write ``folder/step_000050`` and delete all but the latest ``keep`` checkpoints; return when it is complete.

    A collective operation: every rank must call it.
    """
    in_background = ranks is not None and ranks.count > 1 and not isinstance(optimizer, ZeroOptimizer)
    with CheckpointWriter(folder, keep=keep, ranks=ranks, in_background=in_background) as writer:
        writer.save(module, optimizer, state)
    return checkpoint_path(folder, state.num_steps)


def _copied(tensor: Tensor) -> Tensor:
    """A copy in main memory; of a tensor sharded by FSDP2, of this process's shard."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _unsharded(value: Any, *, keep: bool) -> Any:
    """A value of the state, unsharded; on the CPU if it had to be gathered. None if ``keep`` is off."""
    if isinstance(value, DTensor) or (isinstance(value, Tensor) and is_partitioned(value)):
        value = full_tensor(value).cpu() if keep else full_tensor(value)
    return value if keep else None


def _unfinished(path: Path) -> Path:
    """Another name until a checkpoint is complete: a folder named step_N is a checkpoint."""
    return path.with_name(path.name + UNFINISHED)


def _begin(path: Path) -> Path:
    """Make the folder that a checkpoint is written into."""
    folder = path.parent
    make_folder(folder)
    # remains of a run that was killed while it wrote, and checkpoints that were found corrupt
    for remains in folder.iterdir():
        if remains.name.startswith(_UNREADABLE) or remains.name.endswith((UNFINISHED, OLD)):
            shutil.rmtree(remains)
    new = _unfinished(path)
    new.mkdir()
    return new


def _texts(state: TrainingState, groups: list[Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Files with everything that is no tensor: name -> content."""
    tree = {"num_steps": state.num_steps, "optimizer": {"groups": groups, "values": values}}
    return {STATE: json.dumps(tree) + "\n"} | ({IN_FLIGHT: state.in_flight} if state.in_flight else {})


def _split(
    state: Mapping[int, Mapping[str, Any]], prepare: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of an optimizer's state, prepared to be written, and its plain values, both by "NUMBER.NAME"."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for number, of_parameter in state.items():
        for name, value in of_parameter.items():
            key = f"{number}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = prepare(value)
            else:
                values[key] = value
    return tensors, values


def _without_alias() -> Callable[[Tensor], Tensor]:
    """A function that returns contiguous tensors, and a copy of one in memory that it has seen before."""
    seen: set[int] = set()

    def prepare(value: Tensor) -> Tensor:
        # safetensors refuses two tensors that alias memory
        start = value.untyped_storage().data_ptr()
        prepared = value.clone() if start in seen else value.contiguous()
        seen.add(start)
        return prepared

    return prepare


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


def _facts_of_part(new: Path, rank: int) -> dict[str, Any]:
    """Size and hash of the files that a process has written, which are numbered from 1."""
    found = (new / part for part in (TRAINED_PARTS, OPTIMIZER_PARTS))
    files = sorted(file for folder in found for file in folder.glob(f"shard-{rank + 1:05d}-*"))
    return {str(file.relative_to(new).as_posix()): _facts(file) for file in files}


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
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    values = state["optimizer"]["values"]
    if (path / TRAINED_PARTS).is_dir():
        of_optimizer = _joined(_load_parts(path, module, optimizer), values)
    else:
        of_optimizer = _joined(_load_whole(path, module, optimizer), values)
    optimizer.load_state_dict({"state": of_optimizer, "param_groups": state["optimizer"]["groups"]})
    flight = path / IN_FLIGHT
    in_flight = flight.read_text(encoding="utf-8") if flight.exists() else ""
    return TrainingState(num_steps=state["num_steps"], in_flight=in_flight)


def _load_whole(path: Path, module: nn.Module, optimizer: AnyOptimizer) -> dict[str, Tensor]:
    """Restore weights from whole tensors, and return the optimizer's by "NUMBER.NAME", sharded as its parameters."""
    saved: Mapping[str, Tensor] = load_file(path / WEIGHTS)
    own = trained_parameters(module)
    _require_same_names(path, own.keys(), saved.keys())
    for name, parameter in own.items():
        write_full_tensor(parameter, saved[name])
    tensors = load_file(path / OPTIMIZER)
    # AdamW of FSDP2 needs each state sharded as its parameter; ZeRO's optimizer shards unsharded states itself.
    if not isinstance(optimizer, ZeroOptimizer):
        parameters = _parameters_of(optimizer)
        for key, value in tensors.items():
            parameter = parameters[int(key.partition(".")[0])]
            # moments have the parameter's shape, the step counter is 0-d
            if value.shape == parameter.shape:
                tensors[key] = shard_like(parameter, value)
    return tensors


def _load_parts(path: Path, module: nn.Module, optimizer: AnyOptimizer) -> dict[str, Tensor]:
    """The same from parts; each process reads what its own shards need."""
    own = trained_parameters(module)
    weights = HuggingFaceStorageReader(str(path / TRAINED_PARTS))
    _require_same_names(path, own.keys(), weights.read_metadata().state_dict_metadata.keys())
    _read({name: parameter.detach() for name, parameter in own.items()}, weights)
    states = HuggingFaceStorageReader(str(path / OPTIMIZER_PARTS))
    parameters = _parameters_of(optimizer)
    tensors: dict[str, Tensor] = {}
    for key, saved in states.read_metadata().state_dict_metadata.items():
        assert isinstance(saved, TensorStorageMetadata), key
        parameter = parameters[int(key.partition(".")[0])]
        is_moment = saved.size == parameter.shape
        dtype = saved.properties.dtype
        tensors[key] = (
            torch.empty_like(parameter, dtype=dtype, requires_grad=False)
            if is_moment
            else torch.empty(saved.size, dtype=dtype)
        )
    _read(tensors, states)
    return tensors


def _read(tensors: dict[str, Tensor], reader: HuggingFaceStorageReader) -> None:
    """Fill tensors in place. Not a collective operation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*intent is to load in a single process", UserWarning)
        load(tensors, storage_reader=reader, no_dist=True)


def _require_same_names(path: Path, own: Collection[str], saved: Collection[str]) -> None:
    if set(own) != set(saved):
        first = min(set(own) ^ set(saved))
        raise RunError(f"{path}: the trained weights differ from those saved, the first is {first}")


def _parameters_of(optimizer: AnyOptimizer) -> list[nn.Parameter]:
    """The parameters in the numbering of the optimizer's state."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
