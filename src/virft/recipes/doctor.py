"""Diagnose a machine: packages, devices, memory, disk, one training step. Each check gives one finding."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from virft.config.schema import Config, DataConfig, GRPOConfig, RunConfig, SamplingConfig
from virft.config.wording import counted
from virft.data.sources.scenes import write_few_shot_scenes
from virft.data.store import Store
from virft.errors import ConfigError, VirftError
from virft.inference.prompting import check_prompts, make_renderer
from virft.models.load import LoadedModel, load_model
from virft.models.precision import gpu_supports_bfloat16, resolve_dtype
from virft.models.tiny import IMAGE_SIZE
from virft.origin import version_and_commit
from virft.planning.device import GIB
from virft.recipes.own_questions import require_box_space, require_thinking
from virft.recipes.preflight import training_data
from virft.recipes.run_header import count_parameters
from virft.recipes.setup import make_prompting
from virft.recipes.trainers import open_grpo_trainer
from virft.scenes.assets import class_names
from virft.training.distributed import device
from virft.training.trainable import weights_dtype

EXTRAS = ("hf", "app")
"""Optional dependencies for users; the others are for the development of virft."""
LOW_DISK_GIB = 2.0
LOW_MEMORY_GIB = 2.0
"""Requirements of `make demo`: about 1.5 GiB of memory, and half a GiB of files."""
COPIES_OF_WEIGHTS = 3
"""Tensors per weight in a checkpoint of full fine-tuning: the float32 weight and the two moments of AdamW."""


class State(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    NOTE = "note"
    FIX = "FIX"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check."""

    about: str
    """The subject, one word."""
    state: State = State.OK
    """Severity."""
    message: str
    """The facts that were found."""
    advice: str = ""
    """A way to resolve it; empty if nothing needs to be done."""


def examine(config: Config | None, *, folder: Path) -> Iterator[Finding]:
    """All findings, cheap checks first. With a ``config`` also those of its model, data and checkpoints.

    ``folder``: the folder that runs are written into.
    """
    system = f"Python {platform.python_version()}, {platform.platform()}"
    yield Finding(about="virft", message=f"{version_and_commit()}; {system}")
    yield from packages(requires("virft") or ())
    yield processor()
    yield attention()
    yield memory(psutil.virtual_memory().available)
    yield disk(folder)
    yield one_step()
    if config is not None:
        yield from of_run(config)


def packages(requirements: Iterable[str]) -> Iterator[Finding]:
    """Findings about required packages, optional ones, and an installed torchvision, which is not used.

    ``requirements`` are in the format of package metadata: ``numpy>=2.0`` or ``gradio>=6.0; extra == "app"``.
    """
    needed, extras = [], []
    for text in requirements:
        required = Requirement(text)
        found = _version(required.name)
        extra = next((name for name in EXTRAS if required.marker and required.marker.evaluate({"extra": name})), None)
        if required.marker is None:
            needed.append((required, found))
        elif extra is not None and required.name != "virft":
            extras.append(f"virft[{extra}] {f'with {required.name} {found}' if found else 'not installed'}")
    wrong = [(one, found) for one, found in needed if not found or not one.specifier.contains(found, True)]
    if wrong:
        message = ", ".join(f"{one.name} is {found or 'not installed'}" for one, found in wrong)
        advice = "pip install " + " ".join(f'"{one.name}{one.specifier}"' for one, _ in wrong)
        yield Finding(about="packages", state=State.FIX, message=message, advice=advice)
    else:
        yield Finding(about="packages", message=", ".join(f"{one.name} {found}" for one, found in needed))
    yield Finding(about="extras", message=", ".join(extras) or "none")
    if (found := _version("torchvision")) is not None:
        message = f"{found}; not used: PIL preprocesses images, so that pixels are equal on all machines"
        yield Finding(about="torchvision", message=message)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> Finding:
    """The device that PyTorch computes on."""
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built is not None:
            message = (
                f"CPU only: {threads}; this PyTorch is built for CUDA {built} and finds no GPU or no matching driver"
            )
            advice = "nvidia-smi lists the GPUs that the driver finds; without a GPU, this is no problem"
            return Finding(about="processor", state=State.NOTE, message=message, advice=advice)
        return Finding(
            about="processor", message=f"CPU only: {threads}; enough for virft-tiny, too slow for larger models"
        )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free, total = torch.cuda.mem_get_info(device())
    room = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free on this process's"
    message = f"{', '.join(names)}; {room}; CUDA {torch.version.cuda}"
    if not gpu_supports_bfloat16():
        advice = 'no bfloat16 here: model.dtype "auto" is float32'
        return Finding(about="processor", state=State.NOTE, message=message, advice=advice)
    return Finding(about="processor", message=message)


def attention() -> Finding:
    """The enabled kernels of scaled-dot-product attention."""
    if not torch.cuda.is_available():
        return Finding(about="attention", message="PyTorch's own for CPUs")
    kernels = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cuDNN": torch.backends.cuda.cudnn_sdp_enabled(),
    }
    on = [name for name, enabled in kernels.items() if enabled]
    if not on:
        advice = "remove the call that disables them, such as torch.backends.cuda.enable_flash_sdp(False)"
        return Finding(
            about="attention", state=State.NOTE, message="only the math kernel, which is slow", advice=advice
        )
    return Finding(about="attention", message=", ".join(on))


def memory(available: int) -> Finding:
    """Available main memory; ``available`` in bytes."""
    message = f"{available / GIB:.1f} GiB available"
    if available < LOW_MEMORY_GIB * GIB:
        return Finding(
            about="memory",
            state=State.NOTE,
            message=message,
            advice=f"even the demo needs {LOW_MEMORY_GIB:g} GiB; close other programs",
        )
    return Finding(about="memory", message=message)


def disk(folder: Path) -> Finding:
    """Free space for runs in a folder, and write permission."""
    existing = _nearest(folder)
    free = shutil.disk_usage(existing).free
    message = f"{free / GIB:.1f} GiB free in {existing}"
    if not os.access(existing, os.W_OK):
        problem = f"{existing} cannot be written"
        return Finding(about="disk", state=State.FIX, message=problem, advice="choose another run.dir")
    if free < LOW_DISK_GIB * GIB:
        return Finding(
            about="disk",
            state=State.NOTE,
            message=message,
            advice="free some space, or choose a run.dir on another disk",
        )
    return Finding(about="disk", message=message)


def _nearest(folder: Path) -> Path:
    """The folder, or its nearest existing parent."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def one_step() -> Finding:
    """A training step of the built-in model: weights change and stay finite; the time it takes."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        write_few_shot_scenes(data, task="detection", classes=class_names("base")[:2], shots=1, seed=0, size=IMAGE_SIZE)
        config = Config(
            data=DataConfig(train=str(data)),
            sampling=SamplingConfig(max_completion_tokens=48),
            grpo=GRPOConfig(steps=1, prompts_per_step=2, group_size=4, learning_rate=1e-3, kl_coef=0.01),
            run=RunConfig(dir=str(Path(scratch) / "run")),
        )
        trainer = open_grpo_trainer(config)
        trained = [weight for weight in trainer.policy.parameters() if weight.requires_grad]
        before = [weight.detach().clone() for weight in trained]
        samples = training_data(config, "grpo").batch(0)
        began = time.perf_counter()
        trainer.step(0, samples)
        seconds = time.perf_counter() - began
    if not all(bool(weight.isfinite().all()) for weight in trained):
        problem = "left non-finite weights"
    elif all(torch.equal(old, new) for old, new in zip(before, trained, strict=True)):
        problem = "changed no weight"
    else:
        message = f"a step of virft-tiny on {trainer.runner.runtime.device} took {seconds:.1f} s"
        return Finding(about="training", message=message)
    return Finding(
        about="training", state=State.FIX, message=f"a step of virft-tiny {problem}", advice="reinstall PyTorch"
    )


def of_run(config: Config) -> Iterator[Finding]:
    """Findings about the model and the datasets of a config, and the disk space for its checkpoints."""
    loaded = None
    try:
        dtype = resolve_dtype(config.model.dtype, device())
        loaded = load_model(
            config.model.path,
            dtype=weights_dtype(config.model, getattr(torch, dtype)),
            pixels=(config.model.min_pixels, config.model.max_pixels),
            in_4bit=config.model.load_in_4bit,
        )
    except VirftError as error:
        yield Finding(about="model", state=State.FIX, message=str(error), advice="check model.path")
    else:
        for note in loaded.notes:
            yield Finding(about="model", state=State.NOTE, message=note)
        num_weights = count_parameters(loaded.model).total
        yield Finding(
            about="model",
            message=f"{config.model.path}: {loaded.family.model_type}, {num_weights:,} weights; computes in {dtype}",
        )
        if config.model.train == "full":
            yield _room(config, num_weights)
        try:
            make_renderer(loaded, make_prompting(config.prompt, config.mixture, loaded))
        except VirftError as error:
            yield Finding(about="model", state=State.FIX, message=str(error))
            loaded = None
    sets = [("", config.data.train), ("", config.data.validation)]
    sets += [(key, folder) for key, part in config.mixture.items() for folder in (part.data, part.validation)]
    for origin, name in sets:
        if name is not None:
            yield _of_data(config, name, origin, loaded)


def _of_data(config: Config, name: str, origin: str, loaded: LoadedModel | None) -> Finding:
    """Finding about a dataset: its images can be read, and the model accepts its prompts."""
    try:
        store = Store(name)
        store.check(decode=True)
    except VirftError as error:
        return Finding(about="data", state=State.FIX, message=str(error), advice="virft build makes a dataset")
    try:
        thinking = config.mixture[origin].thinking if origin else None
        require_thinking(store, default=config.prompt.thinking if thinking is None else thinking, by_origin={})
        if loaded is not None:
            require_box_space(store, loaded.family.box_space)
    except ConfigError as error:
        return Finding(about="data", state=State.FIX, message=f"{name}: {error}", advice="change the settings")
    if loaded is None:
        return Finding(about="data", message=f"{name}: {counted(len(store), 'sample')}, every image can be read")
    try:
        prompting = make_prompting(config.prompt, config.mixture, loaded).of_origin(origin)
        checked = check_prompts(loaded, prompting, (sample for sample in store if sample.queried))
    except VirftError as error:
        advice = "remove these samples and build the dataset again, or choose another model"
        return Finding(about="data", state=State.FIX, message=f"{name}: {error}", advice=advice)
    warning = checked.length_warning(config.sampling.max_completion_tokens)
    if warning is None and config.model.max_pixels is None:
        warning = checked.image_warning()
    if warning is not None:
        return Finding(about="data", state=State.NOTE, message=f"{name}: {warning}")
    return Finding(
        about="data",
        message=f"{name}: {counted(len(store), 'sample')}, every image can be read, every prompt fits the model",
    )


def _room(config: Config, num_weights: int) -> Finding:
    """Disk space for checkpoints and the saved models, all in float32."""
    # one checkpoint more than are retained, while the next is written; the last and the best model
    needed = 4 * num_weights * (COPIES_OF_WEIGHTS * (config.run.keep_checkpoints + 1) + 2)
    found = disk(Path(config.run.dir))
    message = (
        f"{needed / GIB:.1f} GiB for {config.run.keep_checkpoints} checkpoints and two saved models; {found.message}"
    )
    if shutil.disk_usage(_nearest(Path(config.run.dir))).free < needed:
        advice = (
            "free some space, retain fewer checkpoints (run.keep_checkpoints), or train adapters (model.train = lora)"
        )
        return Finding(about="room", state=State.FIX, message=message, advice=advice)
    return Finding(about="room", message=message)
