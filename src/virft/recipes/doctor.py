"""What a machine has and what it lacks: each thing looked at is one finding, with what to do about it."""

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
from virft.data.sources.scenes import write_few_shot_scenes
from virft.data.store import Store
from virft.errors import VirftError
from virft.models.load import load_model
from virft.models.tiny import IMAGE_SIZE
from virft.origin import version_and_commit
from virft.recipes.setup import load_for_training, make_trainer
from virft.recipes.train import training_data
from virft.scenes.assets import class_names
from virft.training.distributed import device

GIB = 2**30
EXTRAS = ("hf", "app")
"""What a user may add; the others are for work on virft itself."""
LOW_DISK_GIB = 2.0
LOW_MEMORY_GIB = 2.0
"""What `make demo` needs: about 1.5 GiB of memory, and half a GiB of files."""
COPIES_OF_WEIGHTS = 3
"""A checkpoint of a full fine-tuning: float32 weights and the two moments of AdamW."""


class State(StrEnum):
    """How a finding is to be taken."""

    GOOD = "ok"
    ODD = "note"
    BROKEN = "FIX"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at. ``cure``: what to do, empty where nothing is to be done."""

    about: str
    state: State = State.GOOD
    told: str
    cure: str = ""


def examine(config: Config | None, *, folder: Path) -> Iterator[Finding]:
    """Findings one by one, cheap ones first. ``config``: of a run whose model and data are looked at too.

    ``folder``: where runs are to be written.
    """
    system = f"Python {platform.python_version()}, {platform.platform()}"
    yield Finding(about="virft", told=f"{version_and_commit()}; {system}")
    yield from packages(requires("virft") or ())
    yield processor()
    yield attention()
    yield memory(psutil.virtual_memory().available)
    yield disk(folder)
    yield one_step()
    if config is not None:
        yield from of_run(config)


def packages(requirements: Iterable[str]) -> Iterator[Finding]:
    """The packages that virft needs, its extras for users, and a torchvision, which is not used.

    ``requirements``: as the metadata of a package has them, ``numpy>=2.0`` or ``gradio>=6.0; extra == "app"``.
    """
    needed, extras = [], []
    for text in requirements:
        wanted = Requirement(text)
        found = _version(wanted.name)
        extra = next((name for name in EXTRAS if wanted.marker and wanted.marker.evaluate({"extra": name})), None)
        if wanted.marker is None:
            needed.append((wanted, found))
        elif extra is not None and wanted.name != "virft":
            extras.append(f"virft[{extra}] {f'with {wanted.name} {found}' if found else 'not installed'}")
    wrong = [(wanted, found) for wanted, found in needed if not found or not wanted.specifier.contains(found, True)]
    if wrong:
        told = ", ".join(f"{wanted.name} is {found or 'not installed'}" for wanted, found in wrong)
        cure = "pip install " + " ".join(f'"{wanted.name}{wanted.specifier}"' for wanted, _ in wrong)
        yield Finding(about="packages", state=State.BROKEN, told=told, cure=cure)
    else:
        yield Finding(about="packages", told=", ".join(f"{wanted.name} {found}" for wanted, found in needed))
    yield Finding(about="extras", told=", ".join(extras) or "none")
    if (found := _version("torchvision")) is not None:
        told = f"{found}; not used: PIL prepares pictures, so that every machine makes the same pixels"
        yield Finding(about="torchvision", told=told)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> Finding:
    """What PyTorch computes on."""
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built is not None:
            told = f"CPU only: {threads}; this PyTorch is built for CUDA {built}, and sees no GPU or no fitting driver"
            cure = "nvidia-smi says whether the driver sees a GPU; without one, nothing is wrong"
            return Finding(about="processor", state=State.ODD, told=told, cure=cure)
        return Finding(
            about="processor", told=f"CPU only: {threads}; enough for virft-tiny, too slow for larger models"
        )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free, total = torch.cuda.mem_get_info(device())
    room = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free on this process's"
    told = f"{', '.join(names)}; {room}; CUDA {torch.version.cuda}"
    if not torch.cuda.is_bf16_supported():
        return Finding(
            about="processor", state=State.ODD, told=told, cure="no bfloat16 here: set model.dtype = float32"
        )
    return Finding(about="processor", told=told)


def attention() -> Finding:
    """Which kernels scaled-dot-product attention may take."""
    if not torch.cuda.is_available():
        return Finding(about="attention", told="PyTorch's own for CPUs")
    kernels = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cuDNN": torch.backends.cuda.cudnn_sdp_enabled(),
    }
    on = [name for name, enabled in kernels.items() if enabled]
    if not on:
        cure = "unset what turns them off, such as torch.backends.cuda.enable_flash_sdp(False)"
        return Finding(about="attention", state=State.ODD, told="only the plain one, which is slow", cure=cure)
    return Finding(about="attention", told=", ".join(on))


def memory(available: int) -> Finding:
    """Main memory, in bytes."""
    told = f"{available / GIB:.1f} GiB available"
    if available < LOW_MEMORY_GIB * GIB:
        return Finding(
            about="memory",
            state=State.ODD,
            told=told,
            cure=f"even the demo wants {LOW_MEMORY_GIB:g} GiB; close something",
        )
    return Finding(about="memory", told=told)


def disk(folder: Path) -> Finding:
    """Room for runs in a folder, and whether it can be written."""
    there = _nearest(folder)
    free = shutil.disk_usage(there).free
    told = f"{free / GIB:.1f} GiB free in {there}"
    if not os.access(there, os.W_OK):
        return Finding(about="disk", state=State.BROKEN, told=f"{there} cannot be written", cure="name another run.dir")
    if free < LOW_DISK_GIB * GIB:
        return Finding(about="disk", state=State.ODD, told=told, cure="make room, or name a run.dir elsewhere")
    return Finding(about="disk", told=told)


def _nearest(folder: Path) -> Path:
    """The folder or, where it is not there yet, the nearest above it that is."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def one_step() -> Finding:
    """A training step of the built-in model: that weights change, that they are numbers, and how long it takes."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        write_few_shot_scenes(data, task="detection", classes=class_names("base")[:2], shots=1, seed=0, size=IMAGE_SIZE)
        config = Config(
            data=DataConfig(train=str(data)),
            sampling=SamplingConfig(max_completion_tokens=48),
            grpo=GRPOConfig(steps=1, prompts_per_step=2, group_size=4, learning_rate=1e-3, kl_coef=0.01),
            run=RunConfig(dir=str(Path(scratch) / "run")),
        )
        loaded = load_for_training(config)
        trained = [weight for weight in loaded.model.parameters() if weight.requires_grad]
        before = [weight.detach().clone() for weight in trained]
        samples = training_data(config, "grpo").batch(0)
        began = time.perf_counter()
        make_trainer(config, loaded).step(0, samples)
        seconds = time.perf_counter() - began
    if not all(bool(weight.isfinite().all()) for weight in trained):
        state, told = State.BROKEN, "left weights that are no numbers"
    elif all(torch.equal(old, new) for old, new in zip(before, trained, strict=True)):
        state, told = State.BROKEN, "changed no weight"
    else:
        return Finding(about="training", told=f"a step of virft-tiny on {device()} took {seconds:.1f} s")
    return Finding(about="training", state=state, told=f"a step of virft-tiny {told}", cure="reinstall PyTorch")


def of_run(config: Config) -> Iterator[Finding]:
    """The model and the data sets of a config, and room for its checkpoints."""
    try:
        loaded = load_model(config.model.path, pixels=(config.model.min_pixels, config.model.max_pixels))
    except VirftError as error:
        yield Finding(about="model", state=State.BROKEN, told=str(error), cure="see model.path")
    else:
        num_weights = sum(weight.numel() for weight in loaded.model.parameters())
        yield Finding(
            about="model",
            told=f"{config.model.path}: {loaded.family.model_type}, {num_weights:,} weights",
        )
        if config.model.train == "full":
            yield _room(config, num_weights)
    sets = [config.data.train, config.data.validation, *(part.data for part in config.mixture.values())]
    for name in (name for name in sets if name is not None):
        try:
            store = Store(name)
            store.check(decode=True)
        except VirftError as error:
            yield Finding(about="data", state=State.BROKEN, told=str(error), cure="virft build makes a data set")
        else:
            yield Finding(about="data", told=f"{name}: {len(store)} questions, every picture can be read")


def _room(config: Config, num_weights: int) -> Finding:
    """Whether checkpoints fit: float32, one more than are kept while the next is written, and two models."""
    needed = 4 * num_weights * (COPIES_OF_WEIGHTS * (config.run.keep_checkpoints + 1) + 2)
    found = disk(Path(config.run.dir))
    told = f"{needed / GIB:.1f} GiB for {config.run.keep_checkpoints} checkpoints and the trained models; {found.told}"
    if shutil.disk_usage(_nearest(Path(config.run.dir))).free < needed:
        cure = "make room, keep fewer (run.keep_checkpoints), or train adapters (model.train = lora)"
        return Finding(about="room", state=State.BROKEN, told=told, cure=cure)
    return Finding(about="room", told=told)
